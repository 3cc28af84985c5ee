"""Networks that users bring: those that take the picture alone are called as all others here, net(image, region)."""

import inspect

import torch
from torch import nn

from mura_fastai.errors import InputError
from mura_fastai.models.backbones import TimmNet
from mura_fastai.models.weights import net_name


class ImageOnly(nn.Module):
    "A network whose forward takes the picture alone, called as net(image, region); the region is dropped."

    def __init__(
        self,
        net: nn.Module,  # N x 1 x H x W to N x 1 logits
    ):
        super().__init__()
        self.net = net

    def forward(
        self,
        x: torch.Tensor,  # N x 1 x H x W
        region: torch.Tensor | None = None,  # N codes, not looked at
    ) -> torch.Tensor:  # N x 1 logits
        return self.net(x)

    def param_groups(self) -> list[list[nn.Parameter]]:
        "Its own, where it has any; else one."
        return self.net.param_groups() if hasattr(self.net, "param_groups") else [list(self.parameters())]


def with_region(
    net: nn.Module,  # of the user's
) -> nn.Module:  # called as net(image, region)
    """The network as it is where its forward takes image and region; a bare one of timm as `TimmNet`; else `ImageOnly`.

    Raises `InputError` for a network of timm that has not one logit."""
    if hasattr(net, "pretrained_cfg") and hasattr(net, "get_classifier"):
        if net.num_classes != 1:
            raise InputError(f"{net_name(net)} has {net.num_classes} outputs, not one logit; make it with num_classes=1")
        return TimmNet(net) if hasattr(net, "forward_head") else ImageOnly(net)
    given = inspect.signature(net.forward).parameters.values()
    places = [p.kind for p in given if p.kind not in (p.KEYWORD_ONLY, p.VAR_KEYWORD)]
    return net if len(places) > 1 or inspect.Parameter.VAR_POSITIONAL in places else ImageOnly(net)
