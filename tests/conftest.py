"""What all tests share: a cache folder of their own, and one small phantom."""

import pytest

from mura_fastai.data.phantom import make_phantom


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
