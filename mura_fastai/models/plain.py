"""`plain_cnn`: the plain network that many train on MURA first, to be measured against and never to be proud of."""

import torch
from torch import nn

from mura_fastai.errors import InputError
from mura_fastai.models.regions import RegionFiLM


class PlainCNN(nn.Module):
    """Four times convolution 3x3, ReLU, batch norm, max-pool and dropout; then all places, 128 units, one logit.

    It is made for one size of image. Nothing in it is wrong, and with one-cycle and augmentation it is no straw man.
    """

    def __init__(
        self,
        size: int,  # side of the images in pixels, 16 or more
        num_classes: int = 1,  # logits a row
        in_chans: int = 1,  # image channels
        widths: tuple = (16, 32, 64, 128),  # channels of the four convolutions
        hidden: int = 128,  # features before the last layer
        dropout: float = 0.5,  # before the last layer; half of it after each convolution
        n_regions: int = 0,  # region codes, the unknown one's among them, that scale and shift the features; 0: none do
    ):
        super().__init__()
        if size < 2 ** len(widths):
            raise InputError(f"images of {size} pixels: plain_cnn halves them {len(widths)} times; choose a larger --size")
        layers = []
        for n_in, n_out in zip((in_chans, *widths[:-1]), widths, strict=True):
            conv = nn.Conv2d(n_in, n_out, 3, padding=1)
            layers += [conv, nn.ReLU(), nn.BatchNorm2d(n_out), nn.MaxPool2d(2), nn.Dropout(dropout / 2)]
        self.stages = nn.Sequential(*layers)
        places = (size // 2 ** len(widths)) ** 2
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(widths[-1] * places, hidden), nn.ReLU(), nn.Dropout(dropout))
        self.film = RegionFiLM(n_regions, hidden) if n_regions else None
        self.n_features, self.classifier = hidden, nn.Linear(hidden, num_classes)

    def features(
        self,
        x: torch.Tensor,  # N x in_chans x size x size
        region: torch.Tensor | None = None,  # N codes; looked at where the network was made with `n_regions`
    ) -> torch.Tensor:  # N x n_features
        "What the classifier sees."
        x = self.head(self.stages(x))
        return x if self.film is None else self.film(x, region)

    def forward(
        self,
        x: torch.Tensor,  # N x in_chans x size x size
        region: torch.Tensor | None = None,  # N codes
    ) -> torch.Tensor:  # N x num_classes logits
        return self.classifier(self.features(x, region))

    def param_groups(self) -> list[list[nn.Parameter]]:
        "One group: nothing is pretrained."
        return [list(self.parameters())]
