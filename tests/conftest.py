"""What all tests share: a cache folder of their own, and one small phantom."""

import signal
import sys
from pathlib import Path

import pytest

from mura_fastai.data.phantom import make_phantom

pytest_plugins = ["browser"]


def pytest_collection_modifyitems(items):
    "The notebooks first: they take longest, and nobody should wait for them alone at the end."
    items.sort(key=lambda item: item.path.name != "test_notebooks.py")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    "No test reads or fills the user's cache folder."
    with pytest.MonkeyPatch.context() as m:
        m.setenv("MURA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def images(tmp_path_factory, own_cache):
    "The images table of 60 studies of 96 px. Nobody changes its files: copy them first."
    return make_phantom(tmp_path_factory.mktemp("shared") / "MURA-small", studies=60, seed=1, size=96, workers=1)


@pytest.fixture(scope="session")
def root(images):
    "The folder of the shared phantom: the one that holds MURA's CSVs."
    return next(p for p in Path(images.path[0]).parents if (p / "train_image_paths.csv").exists())


@pytest.fixture(scope="session")
def run(root, tmp_path_factory):
    "A run of one epoch on the shared phantom. Nobody changes it: copy it first."
    from mura_fastai.results.experiment import train

    out = tmp_path_factory.mktemp("runs") / "first"
    run = train(root, out, size=48, epochs=1, bs=16, num_workers=1)[0]
    before = {f: f.read_bytes() for f in run.rglob("*") if f.is_file()}
    yield run
    changed = [f.name for f, held in before.items() if f.read_bytes() != held]
    assert not changed, "a test changed the run that all share"


@pytest.fixture
def mura(monkeypatch, capsys):
    "Call the command inside this process: exit code, stdout, stderr."
    from mura_fastai import cli

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["mura", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as e:
            cli.main()
        told = capsys.readouterr()
        return e.value.code or 0, told.out, told.err

    yield call
    for number, handler in before.items():
        signal.signal(number, handler)
