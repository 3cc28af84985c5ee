"""In which numbers a network is trained: 16 bits where the device is faster with them, float32 elsewhere."""

import torch
from fastai.callback.core import Callback, CancelStepException

from mura_fastai.errors import InputError

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


class Autocast(Callback):
    "Forward passes of training in 16 bits; validation and predictions stay in float32, since scores need the digits."

    order, run_valid = -9, False  # after fastai's own bookkeeping, before anything looks at a prediction

    def __init__(
        self,
        dtype: torch.dtype,  # of the forward pass
    ):
        self.dtype = dtype

    def before_batch(self):
        self.context = torch.autocast(self.dls.device.type, self.dtype)
        self.context.__enter__()

    def after_pred(self):
        self.context.__exit__(None, None, None)
        self.learn.pred = self.pred.float()


class ScaleLoss(Callback):
    """float16's small range: the loss is scaled up before it goes backward, and a step that overflowed is left out.

    As fastai's `MixedPrecision`, but the optimizer's own kernel looks whether to step, so that the device is never
    asked and waited for. It needs a fused torch optimizer (`fused_adam`).
    """

    run_valid = False

    def before_fit(self):
        self.scaler = torch.amp.GradScaler(self.dls.device.type)

    def before_backward(self):
        self.learn.loss_grad = self.scaler.scale(self.loss_grad)

    def before_step(self):
        self.scaler.step(self.opt.opt)
        self.scaler.update()
        raise CancelStepException  # the step is done


def resolve_precision(
    precision: str,  # fp32, bf16, fp16, or auto: the fastest of the device
    device: torch.device,  # where the network is trained
) -> str:  # fp32, bf16 or fp16
    "Which numbers these are on this device: emulated 16 bits would be slower than float32."
    if precision not in PRECISIONS:
        raise InputError(f"unknown precision {precision!r}; the known ones are {', '.join(PRECISIONS)}")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        # Cards before Ampere, such as a free notebook's T4, have float16 alone.
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported() else "fp32"


def precision_cbs(
    precision: str,  # fp32, bf16 or fp16, from `resolve_precision`
) -> list[Callback]:
    "The callbacks that train in this precision. bfloat16 has the range of float32, so its loss needs no scaling."
    if precision == "fp32":
        return []
    return [Autocast(torch.bfloat16)] if precision == "bf16" else [Autocast(torch.float16), ScaleLoss()]
