"""What a network costs whatever the machine: its parameters, and the multiply-adds of one image."""

import copy
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Cost:
    "Of one network at one size of image."

    parameters: int  # learned numbers
    multiply_adds: int  # of one forward pass of one image


def network_cost(
    net: nn.Module,  # called with N x channels x size x size
    size: int,  # side of the image in pixels
    channels: int = 1,  # of the image
) -> Cost:
    """Count the parameters of a network, and the multiply-adds of predicting one image.

    Convolutions, matrix products and attention are counted, as PyTorch's `FlopCounterMode` does (two operations to a
    multiply-add); norms, activations and pooling are not, as in the tables of papers. A training step takes about
    three times as many an image. Nothing is computed: a copy of the network is run on shapes alone, and `net` stays as
    it is.
    """
    shapes = copy.deepcopy(net).to("meta").eval()
    # Fused kernels of attention differ by device, and some are not counted; plain matrix products always are.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        shapes(torch.empty(1, channels, size, size, device="meta"))
    return Cost(sum(p.numel() for p in net.parameters()), counter.get_total_flops() // 2)
