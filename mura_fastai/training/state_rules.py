"""Whether a state can be one that a training left: runs come by mail, and an invented state can have a right checksum.

What is wrong is a `ValueError` in a few words; who reads the file adds its name and the remedy.
"""

import re

import torch
from fastai.learner import Learner

from mura_fastai.schema import STATE, wrong_value
from mura_fastai.training.precision import ScaleLoss

# A number for each file: of its size and time; of the square of it that a store holds, or of all its pixels.
STAMPS, SQUARES, PIXELS = "data.stamps", "data.squares", "data.pixels"
_NEEDED = STATE.keys() - {"groups"}  # these are not kept after the last step
_MOMENTS = ("exp_avg", "exp_avg_sq")
_CPU_BYTES, _TABLE = 5056, 624  # of PyTorch's generator on a CPU, and numbers in its table


def check_told(
    told: object,  # the plain values of a state
):
    "Whether each is in its range, and whether place, history and best epoch are of one moment."
    if not isinstance(told, dict):
        raise ValueError("its values are no table")
    needed = _NEEDED if told.get("done") is True else STATE.keys()
    if missing := sorted(needed - told.keys()):  # null is a value of some
        raise ValueError(f"{missing[0]} is missing")
    if wrong := wrong_value(told, STATE):
        raise ValueError(wrong)
    rows, (fit, epoch, batch), asked = told["rows"], told["place"], told["settings"]
    for i, row in enumerate(rows):
        if row.get("epoch") != i or row.keys() != rows[0].keys() or not all(re.fullmatch(r"\w{1,60}", k) for k in row):
            raise ValueError(f"row {i} of its history is of another form")
    fits = [n for n in (asked["freeze_epochs"], asked["epochs"]) if n]
    if fit >= len(fits) or epoch > fits[fit] or (batch and epoch == fits[fit]):
        raise ValueError(f"its place {told['place']} is beyond {' and '.join(map(str, fits))} epochs")
    if len(rows) != sum(fits[:fit]) + epoch or told["done"] != (len(rows) == sum(fits)):
        raise ValueError(f"{len(rows)} epochs in its history do not go with its place {told['place']}")
    kept = told["best"][1]
    if (kept is None) != (not rows) or (rows and kept >= len(rows)):
        raise ValueError(f"its best epoch is {kept}, of {len(rows)}")


def check_tensors(
    tensors: dict[str, torch.Tensor],  # all of a state
):
    "Whether those are whole that fit any network: marks of files, the smoothed loss, generators."
    _form(tensors, STAMPS, torch.int64, 1)
    for name in (k for k in (SQUARES, PIXELS) if k in tensors):  # earlier versions kept neither
        _form(tensors, name, torch.int64, 1)
        if len(tensors[name]) != len(tensors[STAMPS]):
            raise ValueError(f"{STAMPS} is of {len(tensors[STAMPS])} files, {name} of {len(tensors[name])}")
    _form(tensors, "smooth.val", torch.float32, 0)
    for name in ("random.torch", *(k for k in tensors if k.startswith("random.cuda"))):
        _form(tensors, name, torch.uint8, 1)
    kept = tensors["random.torch"]
    if len(kept) == _CPU_BYTES:
        # PyTorch believes how far it is in its table, and would read on behind its end.
        left, place = int(kept[8:12].view(torch.int32)), int(kept[16:24].view(torch.int64))
        if (left, place) != (1, 0) and (left + place != _TABLE + 1 or not 1 <= place <= _TABLE):
            raise ValueError("random.torch is no generator")
    _generator(kept, "random.torch", "cpu")
    for name in (k for k in tensors if k.startswith("random.cuda")):
        number = name.removeprefix("random.cuda")
        if number.isdecimal() and int(number) < torch.cuda.device_count():
            _generator(tensors[name], name, f"cuda:{int(number)}")


def _form(tensors: dict, name: str, dtype: torch.dtype, ndim: int):
    got = tensors.get(name)
    if got is None or got.ndim != ndim or got.dtype != dtype:
        raise ValueError(f"{name} is {described(got)}")


def _generator(kept: torch.Tensor, name: str, device: str):
    try:
        torch.Generator(device).set_state(kept)
    except RuntimeError:
        raise ValueError(f"{name} is no generator") from None


def check_learner(
    learn: Learner,  # made as the settings of the run say, before a pass
    told: dict,  # the plain values of a state, that are in their ranges
    tensors: dict[str, torch.Tensor],  # all of it
    schedule: str,  # of the run
):
    "Whether a state is of this network, this optimizer, these batches and these scores."
    fit, epoch, batch = told["place"]
    n, last = len(learn.dls.train), bool(told["settings"]["freeze_epochs"]) == bool(fit)
    if batch > n or told["train_iter"] != epoch * n + batch:
        raise ValueError(f"its place {told['place']} is beyond {n} batches an epoch")
    names = {"epoch", "train_loss", "tune_loss", *(m.name for m in learn.metrics), "lr", "seconds"}
    if told["rows"] and told["rows"][0].keys() != names:
        raise ValueError(f"its history has {', '.join(told['rows'][0])[:100]}")
    if (told["scaler"] is None) == any(isinstance(cb, ScaleLoss) for cb in learn.cbs):
        raise ValueError("its precision is another")
    if len(told["plateau"]) != (schedule == "plateau" and last):
        raise ValueError("its schedule is another")
    check_network({k: v for k, v in tensors.items() if k.startswith("model.")}, learn.model.state_dict(), "model.")
    if not told["done"]:
        _check_moments(learn, told, {k: v for k, v in tensors.items() if k.startswith("opt.")})


def check_network(
    got: dict[str, torch.Tensor],  # kept weights
    wanted: dict[str, torch.Tensor],  # the network's own
    prefix: str = "",  # of the names in `got`
):
    "Whether weights are of a network's form: names, shapes, kinds of numbers."
    for name in sorted(got.keys() | {prefix + k for k in wanted}):
        ours, theirs = wanted.get(name.removeprefix(prefix)), got.get(name)
        if described(ours) != described(theirs):
            raise ValueError(f"{name[:100]} is {described(theirs)}, not {described(ours)}")


def _check_moments(learn: Learner, told: dict, tensors: dict[str, torch.Tensor]):
    groups = learn.opt.opt.param_groups
    params = [p for group in groups for p in group["params"]]
    if len(told["groups"]) != len(groups):
        raise ValueError(f"it has {len(told['groups'])} groups of parameters, not {len(groups)}")
    wanted, scalar = {}, torch.zeros(())
    for i, p in enumerate(params):
        if any(f"opt.{i}.{k}" in tensors for k in (*_MOMENTS, "step")):  # none for what was never trained
            wanted |= {f"opt.{i}.{k}": p for k in _MOMENTS} | {f"opt.{i}.step": scalar}
    check_network(tensors, wanted)
    for name in (k for k in tensors if k.endswith(".step")):
        if not 0 <= tensors[name].item() <= 2**40:  # 0: all overflowed so far
            raise ValueError(f"{name} is {tensors[name].item()}")


def described(
    tensor: torch.Tensor | None,
) -> str:
    "Its form in words, such as `8 x 1 x 3 x 3 float32`."
    if tensor is None:
        return "missing"
    shape = " x ".join(map(str, tensor.shape)) if tensor.ndim else "one"
    return f"{shape[:100]} {str(tensor.dtype).removeprefix('torch.')}"
