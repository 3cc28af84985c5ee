"""In which numbers a network is trained: 16 bits where the device is faster with them, float32 elsewhere."""

import torch
from fastai.callback.core import Callback, CancelStepException

from mura_fastai.errors import InputError

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


class Autocast(Callback):
    "Forward passes of training in 16 bits; validation and predictions stay in float32, since scores need the digits."

    order, run_valid = -9, False

    def __init__(
        self,
        dtype: torch.dtype,  # of the forward pass
    ):
        self.dtype, self.context, self.hooks = dtype, None, []

    def before_fit(self):
        self.after_fit()
        # Hooks, since they are called too where the forward pass fails: fastai's events are not, and all that follows
        # in the session would be computed in 16 bits.
        enter, leave = torch.compiler.disable(self._enter), torch.compiler.disable(self._leave)
        self.hooks = [
            self.model.register_forward_pre_hook(enter),
            self.model.register_forward_hook(leave, always_call=True),
        ]

    def _enter(self, net, inputs):
        if net.training:
            self.context = torch.autocast(self.dls.device.type, self.dtype)
            self.context.__enter__()

    def _leave(self, net, inputs, output):
        if self.context is not None:
            self.context.__exit__(None, None, None)
            self.context = None

    def after_pred(self):
        self.learn.pred = self.pred.float()

    def after_fit(self):
        for hook in self.hooks:
            hook.remove()
        self.hooks = []


class ScaleLoss(Callback):
    """float16's small range: the loss is scaled up before it goes backward, the gradients down before they are used.

    As fastai's `MixedPrecision`, but whether a step overflowed is decided by the optimizer's own kernel (`ScaledStep`),
    so that the device is never asked and waited for.
    """

    order, run_valid = 7, False  # between fastai's accumulation and its clipping of gradients

    def before_fit(self):
        if not getattr(getattr(self.opt, "opt", None), "_step_supports_amp_scaling", False):
            raise InputError(
                "float16 needs an optimizer that skips overflowing steps by itself: leave opt_func out (fused_adam), "
                "or train in another precision (precision='fp32', --precision fp32)"
            )
        self.learn.scaler = torch.amp.GradScaler(self.dls.device.type)

    def before_backward(self):
        self.learn.loss_grad = self.scaler.scale(self.loss_grad)

    def before_step(self):
        self.scaler.unscale_(self.opt.opt)


class ScaledStep(Callback):
    "The step of `ScaleLoss`, after all that works on gradients."

    order, run_valid = 100, False

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
    if precision == "bf16":
        return [Autocast(torch.bfloat16)]
    return [Autocast(torch.float16), ScaleLoss(), ScaledStep()]
