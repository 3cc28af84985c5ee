"""What the commands do, called from Python."""

from mura_fastai.results.lr_search import find_lr


def test_the_search_for_a_learning_rate_leaves_nothing_where_one_works(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert 1e-6 < find_lr(root, size=32, bs=8, figure="lr.png") < 1
    assert [p.name for p in tmp_path.iterdir()] == ["lr.png"]
