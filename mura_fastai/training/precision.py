"""In which numbers a network is trained: bfloat16 where the processor computes in it, float32 elsewhere."""

import torch
from fastai.callback.core import Callback

from mura_fastai.errors import InputError

PRECISIONS = ("auto", "fp32", "bf16")


class TrainBf16(Callback):
    "Forward passes of training in bfloat16; validation and predictions stay in float32, since scores need the digits."

    order, run_valid = -9, False  # after fastai's own bookkeeping, before anything looks at a prediction

    def before_batch(self):
        self.autocast = torch.autocast(self.dls.device.type, torch.bfloat16)
        self.autocast.__enter__()

    def after_pred(self):
        self.autocast.__exit__(None, None, None)
        self.learn.pred = self.pred.float()


def has_bf16(
    device: torch.device,  # where the network is trained
) -> bool:
    "Does the device multiply in bfloat16 itself? Emulated, it would be slower than float32."
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


def precision_cbs(
    precision: str,  # auto, fp32 or bf16; auto is bf16 where the device has it
    device: torch.device,  # where the network is trained
) -> list[Callback]:
    "The callbacks that train in this precision. bfloat16 has the range of float32, so no loss needs scaling."
    if precision not in PRECISIONS:
        raise InputError(f"unknown precision {precision!r}; the known ones are {', '.join(PRECISIONS)}")
    return [TrainBf16()] if precision == "bf16" or (precision == "auto" and has_bf16(device)) else []
