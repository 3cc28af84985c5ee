"""The search for a learning rate, with the network and the training that it is for."""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
from fastai.torch_core import set_seed

from mura_fastai.bars import stderr_bar
from mura_fastai.data.loaders import mura_dls
from mura_fastai.data.reading import read_data
from mura_fastai.data.store import auto_store
from mura_fastai.files import refuse_closed, replacing
from mura_fastai.models.backbones import check_net
from mura_fastai.training.fitting import augmentation
from mura_fastai.training.learner import mura_learner
from mura_fastai.training.optimizer import optimizer_of
from mura_fastai.training.schedules import layer_rates
from mura_fastai.training.singles import refuse_singles


def find_lr(
    data: str | Path,  # a dataset's folder, or a CSV
    arch: str = "mura_cnn",  # "mura_cnn" or any timm name
    size: int = 320,  # side of the padded square in pixels
    bs: int = 64,  # images a batch
    source: str | None = None,  # mura, fracatlas, folder or csv; found out where not given
    regions: list[str] | str | None = None,  # some regions only
    split_seed: int = 0,  # another seed, another split
    allow_leaks: bool = False,  # go on although a patient is in both train and valid
    max_bad: float = 0.05,  # share of unusable files that is left out without asking
    seed: int = 0,  # of weights, order and augmentation
    pretrained: bool = True,  # ImageNet weights for a timm network
    weights: str | Path | None = None,  # a local file of weights instead of timm's hub
    allow_missing: bool = False,  # layers that `weights` lacks start fresh
    num_workers: int | None = None,  # decoding threads
    figure: str | Path | None = None,  # where to draw the curve; nowhere where not given
    until: str | None = None,  # keep a timm network up to this stage, such as layer3 of a ResNet
    views: str | None = None,  # learn whole studies, `bs` of them a batch: views pooled by mean, max or attention
    pool: str | None = None,  # of the network and of its training, as all that follows: see `train_run`
    dropout: float | None = None,
    region_aware: bool = False,
    layer_decay: float | None = None,  # what is searched is the head's rate; those below keep their distance from it
    weight_decay: float | None = None,
    optimizer: str = "fastai",
    augment: dict | None = None,
) -> float:  # the suggested highest learning rate
    """`mura lr-find`: fastai's search for a learning rate, its valley.

    Of a pretrained network the head alone learns meanwhile, as in its first epoch. Raises `InputError` for what
    `train_run` would refuse too, before the data is read."""
    opt_func, tfms = optimizer_of(optimizer, weight_decay), augmentation(augment or {})
    if layer_decay is not None:
        layer_rates(1.0, layer_decay, 1)  # says so where it is no decay
    check_net(arch, size, until, pool, dropout, region_aware)
    refuse_singles(bs, arch, size, until, pool)
    if figure is not None:
        refuse_closed(figure)
    images = read_data(data, source, regions, max_bad, split_seed, allow_leaks, size)
    set_seed(seed, reproducible=True)
    # The same store that `train` takes: what is decoded here is decoded for it too.
    store = auto_store(images, size, stderr_bar("decoding images"))
    by = "study" if views else "image"
    dls = mura_dls(images, size, bs, store, tfms, num_workers, max_bad=max_bad, by=by)
    learn = mura_learner(
        dls, arch, pretrained, weights, allow_missing, until, pool, dropout, region_aware, layer_decay is not None,
        views=views, opt_func=opt_func,
    )  # fmt: skip
    ends = (1e-7, 10.0)  # fastai's own
    if layer_decay is not None:
        if learn.opt is None:
            learn.create_opt()
        ends = [layer_rates(lr, layer_decay, len(learn.opt.param_lists)) for lr in ends]
    # fastai keeps the weights aside while it searches, in a folder that it makes under the learner's path.
    with tempfile.TemporaryDirectory() as aside, learn.no_bar(), learn.no_logging():
        learn.path = Path(aside)
        valley = float(learn.lr_find(*ends, show_plot=False).valley)
    if figure is not None:
        _draw_lr(learn.recorder, valley, f"{arch}, {size} px, batches of {bs}{' studies' * bool(views)}", figure)
    return valley


def _draw_lr(recorder, valley: float, title: str, file: str | Path):
    "The smoothed loss over the learning rate; its last steps, where it diverges, are left away as fastai does."
    fig, ax = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    ax.plot(recorder.lrs[:-5], recorder.losses[:-5])
    ax.axvline(valley, color="#999999", ls=":", label=f"valley at {valley:.1e}")
    ax.set(xscale="log", xlabel="learning rate", ylabel="training loss, smoothed", title=title)
    ax.legend(frameon=False)
    with replacing(file) as aside:
        fig.savefig(aside, dpi=110)
    plt.close(fig)
