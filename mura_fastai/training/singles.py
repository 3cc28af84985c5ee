"""Batches of one image, from which some networks cannot learn: refused before a training begins, not in its midst."""

import copy

import torch
from fastai.callback.core import Callback
from torch import nn

from mura_fastai.errors import InputError
from mura_fastai.models.backbones import create_net
from mura_fastai.models.views import StudyNet


class SingleImage(InputError):
    "A batch of one image for a network that cannot learn from it."

    def __str__(self) -> str:
        return super().__str__().splitlines()[-1].strip()  # fastai prepends where it happened, on a line of its own


def learns_from_one(
    net: nn.Module,  # called with N x 1 x size x size, or one that pools views
    size: int,  # side of the images in pixels
) -> bool:
    """Whether a training step of a single image goes through.

    Batch norm takes its statistics over images and places. Where the places are gone, as in the head of `mura_cnn` and
    in deep networks of small images, one image has none. Nothing is computed: a copy is run on shapes alone."""
    net = net.net if isinstance(net, StudyNet) else net
    shapes = copy.deepcopy(net).to("meta").train()
    try:
        with torch.no_grad():
            shapes(torch.empty(1, 1, size, size, device="meta"))
    except Exception as e:  # a network of a user's own may not run on shapes: nothing is known of it
        return "more than 1 value per channel" not in str(e)
    return True


def refuse_singles(
    bs: int,  # images a batch; studies, where views are pooled: one may be a single image
    arch: str,  # "mura_cnn" or any timm name
    size: int,  # side of the images in pixels
    until: str | None = None,  # the stage that a timm network is cut after
    pool: str | None = None,  # a timm network's, over places
):
    "Raise `InputError` where a batch may be one image, and the network cannot learn from it. No data is needed."
    if bs == 1 and not learns_from_one(create_net(arch, False, size=size, until=until, pool=pool), size):
        raise _refusal(arch)


def _refusal(arch: str, few: str = "a batch", remedy: str = "give two or more (bs=2, --bs 2)") -> SingleImage:
    return SingleImage(f"{arch} cannot learn from one image {few}: its batch norm needs several; {remedy}")


class RefuseSingles(Callback):
    "Raise `InputError` before the first step where a batch may be one image, and the network cannot learn from it."

    def before_train(self):  # a fit begins where one validates, too
        dl = getattr(self.dls.train, "dl", self.dls.train)  # fastai wraps a loader where several processes train
        n, bs, size = (getattr(*of, None) for of in ((dl, "n"), (dl, "bs"), (self.dls, "size")))
        if not (n and bs and size):
            return  # loaders of a user's own
        rest = 0 if dl.drop_last else n % bs
        if (rest or bs) * getattr(dl, "fewest_views", 1) > 1 or learns_from_one(self.model, size):
            return
        few = ("in the last batch of an epoch", "leave drop_last=False out") if bs > 1 else ()
        raise _refusal(self.arch, *few)
