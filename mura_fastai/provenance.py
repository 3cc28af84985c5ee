"""What a result was made with: versions of packages, and the commit of a checkout."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import mura_fastai

PACKAGES = (
    "torch", "torchvision", "fastai", "fastcore", "fasttransform", "timm", "numpy", "pandas", "pillow", "safetensors",
)  # fmt: skip


def versions() -> dict:  # by package; None for one that is not installed
    "The versions that figures depend on."
    found = {"python": platform.python_version(), "mura_fastai": mura_fastai.__version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def checkout() -> dict:  # `commit`, and whether files of the package have `changed` since; None where it is no checkout
    "Which state of the source this is."
    here = Path(mura_fastai.__file__).parents[1]
    if not (here / ".git").exists():
        return dict(commit=None, changed=None)

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):  # no git, or a checkout of another user that it will not read
            return None
        return done.stdout.strip()

    commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--", "mura_fastai")
    return dict(commit=commit, changed=None if changes is None else bool(changes))
