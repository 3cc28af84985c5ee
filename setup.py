"""Hands settings.ini, the one place of the package's metadata, to setuptools."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
parser = ConfigParser(delimiters=["="])
parser.read(here / "settings.ini", encoding="utf-8")
settings = parser["DEFAULT"]


def lines(key: str) -> list[str]:
    return settings.get(key, "").strip().splitlines()


setup(
    name=settings["name"],
    version=settings["version"],
    description=settings["description"],
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=settings["author"],
    license=settings["license"],
    keywords=settings["keywords"].split(),
    python_requires=f">={settings['min_python']}",
    packages=find_packages(include=["mura_fastai", "mura_fastai.*"]),
    install_requires=lines("requirements"),
    extras_require={"dev": lines("dev_requirements")},
    entry_points={"console_scripts": lines("console_scripts")},
)
