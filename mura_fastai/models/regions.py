"""What a network may do with the region that it is told: a scale and a shift of its features, region by region."""

import torch
from torch import nn

from mura_fastai.errors import InputError


class RegionFiLM(nn.Module):
    """Features times 1 + scale, plus shift, both learned for each region; FiLM (Perez et al. 2018, arXiv 1709.07871).

    It starts as the identity, all scales and shifts zero. Code 0 stands for a region that training did not know: no
    row of training has it, so nothing could be learned for it, and it gets the mean over the known regions. (The
    identity would be a region that none of the trained ones is like, since the classifier learned to expect a shift.)
    Weight decay pulls every region back to the identity.
    """

    def __init__(
        self,
        n_regions: int,  # codes, the unknown region's 0 among them: 2 or more
        channels: int,  # of the features
    ):
        super().__init__()
        if n_regions < 2:
            raise InputError(f"{n_regions} region code(s): conditioning needs code 0 and at least one known region")
        self.scale = nn.Parameter(torch.zeros(n_regions - 1, channels))
        self.shift = nn.Parameter(torch.zeros(n_regions - 1, channels))

    def forward(
        self,
        x: torch.Tensor,  # N x channels, or N x channels x H x W
        region: torch.Tensor | None = None,  # N codes; None: all unknown
    ) -> torch.Tensor:  # of x's shape
        if region is None:
            region = torch.zeros(len(x), dtype=torch.long, device=x.device)
        scale, shift = (t[region.reshape(-1)].view(len(x), -1, *[1] * (x.ndim - 2)) for t in self.tables())
        return x * (1 + scale) + shift

    def tables(self) -> tuple[torch.Tensor, torch.Tensor]:
        "Scales and shifts, n_regions x channels each, the unknown region's first."
        return tuple(torch.cat([t.mean(0, keepdim=True), t]) for t in (self.scale, self.shift))
