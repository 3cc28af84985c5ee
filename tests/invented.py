"""States of a training that none has left, their checksums right: what comes by mail may be made up with care."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from whole import unpacked

from mura_fastai.training import keeping
from mura_fastai.training.resume import resume_run
from mura_fastai.training.runs import train_run
from mura_fastai.training.state import packed

ODD = [None, True, False, 0, 1, 2, 3, -1, 0.5, -1.0, 1e308, float("nan"), float("inf"), 624, 625, 2**31, 2**32, 2**63,
       10**10, 10**400, "", "a", "MT19937", [], {}, [[]], [0] * 624, [0] * 10_000, {"a": 1}, "\ud800"]  # fmt: skip
NAMES = ["model.x", "opt.x.step", "opt.0.x", "opt.99.step", "opt.-1.step", "random.cuda0", "random.cudax", "x"]
KINDS = ["bool", "complex64", "float8_e4m3fn", "float16", "bfloat16", "float64", "int64", "uint8", "uint16"]


class Ended(BaseException):
    "Stands for whatever ends a process."


def begin_run(
    images: pd.DataFrame,  # an images table of a few rows
    run: Path,  # a new folder
    **settings,  # of the run
):
    "A small run that was ended in its second epoch: scaled losses and a plateau, so that its state holds all there is."
    write = keeping.write_state

    def written(folder, state):
        write(folder, state)
        if state.place == (0, 1, 1):
            raise Ended

    how = dict(arch="test_efficientnet", pretrained=False, size=32, bs=8, epochs=2)
    how |= dict(schedule="plateau", precision="fp16") | settings
    keeping.write_state = written
    try:
        train_run(images, run, num_workers=1, save_every=1, store=False, **how)
    except Ended:
        return
    finally:
        keeping.write_state = write
    raise AssertionError("it was not ended")


def go_on(
    file: Path,  # the state of a run
):
    "The run goes on to its end, in a copy: what it writes shall be no matter of the next state."
    run = file.parents[2]
    with tempfile.TemporaryDirectory(dir=run.parent) as copy:
        resume_run(shutil.copytree(run, Path(copy) / "run"))


def invent_state(
    real: bytes,  # a state that a training left
    rng: np.random.Generator,
) -> bytes:
    "One to three other values or tensors."
    state = unpacked(real)
    for _ in range(rng.integers(1, 4)):
        if rng.random() < 0.6:
            _other_value(state.told, rng)
        else:
            _other_tensor(state.tensors, rng)
    return packed(state)


def _place(told: dict, rng: np.random.Generator) -> tuple[dict | list, str | int]:
    "Some value in plain values: what holds it, and its key there."
    value = told
    while True:
        keys = [*value] if isinstance(value, dict) else [*range(len(value))]
        key = keys[rng.integers(len(keys))]
        if not isinstance(value[key], dict | list) or not value[key] or rng.random() < 0.2:
            return value, key
        value = value[key]


def _other_value(told: dict, rng: np.random.Generator):
    "A plain value that is another, gone, doubled, renamed, or a little more or less."
    if not told:
        return
    table, key = _place(told, rng)
    how, old = rng.integers(0, 7), table[key]
    if how == 0:
        del table[key]
    elif how == 1 and isinstance(table, list):
        table.append(old)
    elif how == 2 and isinstance(table, dict):
        table[f"{key}x"] = table.pop(key)
    elif how <= 5 and isinstance(old, int | float) and abs(old) < 1e9:
        table[key] = [old + 1, old - 1, -old, old * 1e3, float(old), old + 0.5, 10**9][rng.integers(7)]
    else:
        table[key] = ODD[rng.integers(len(ODD))]


def _other_tensor(tensors: dict[str, torch.Tensor], rng: np.random.Generator):
    "A tensor that is gone, renamed, of another shape or kind of numbers, or filled with what nobody expects."
    names = sorted(tensors)
    if rng.random() < 0.4:  # of those that there are not hundreds of
        names = [k for k in names if not k.startswith(("model.", "opt."))] or names
    name = names[rng.integers(len(names))]
    old, how = tensors[name], rng.integers(0, 9)
    if how == 0 and len(tensors) > 1:
        del tensors[name]
    elif how == 1:
        tensors[NAMES[rng.integers(len(NAMES))]] = tensors.pop(name) if rng.random() < 0.5 else old
    elif how == 2:
        tensors[name] = old.flatten()[: rng.integers(0, old.numel() + 1)]
    elif how == 3:
        tensors[name] = torch.cat([old.flatten(), old.flatten()])
    elif how == 4:
        tensors[name] = old[None]
    elif how == 5:
        tensors[name] = old.to(getattr(torch, KINDS[rng.integers(len(KINDS))]))
    elif how == 6:
        tensors[name] = torch.full_like(old.float(), float(rng.choice([np.nan, np.inf, -1, 0, 1e30]))).to(old.dtype)
    else:
        # All bytes, or a few at the beginning: there a generator says how far it is.
        raw = old.flatten().clone().view(torch.uint8)
        span = slice(0, len(raw)) if how == 7 else slice(at := int(rng.integers(0, 32)), at + 4)
        raw[span] = torch.from_numpy(rng.integers(0, 256, len(raw[span]), dtype=np.uint8))
        tensors[name] = raw.view(old.dtype).reshape(old.shape)
