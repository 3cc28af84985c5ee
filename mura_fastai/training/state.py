"""What a training was in the middle of: all that decides how it goes on, in one file that is whole or not there.

`weights/last/state.safetensors` of a run: tensors, and in its header one JSON document. One file and not two, since two
could be of different moments; a checksum over both, since a copied folder can be damaged. Nothing in it is a pickle.
"""

import errno
import json
import os
import random
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from fastai.learner import Learner
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from mura_fastai.errors import InputError
from mura_fastai.files import write_bytes
from mura_fastai.training.schedules import PlateauDecay
from mura_fastai.training.state_rules import check_learner, check_tensors, check_told

FORMAT = 1  # of the file
_LARGEST = 2**25  # bytes of its header, that hold a hundred thousand epochs
_GROUP = ("lr", "betas", "eps", "weight_decay")  # of the optimizer's groups: what schedules change


class DamagedState(InputError):
    "What is in the file is no state any more: going on is out of the question, whoever reads it and whenever."


@dataclass
class State:
    "One moment of a training."

    told: dict  # plain values: the place, the history, generators of Python and NumPy, settings
    tensors: dict[str, torch.Tensor]  # on the CPU: `model.NAME`, `opt.NUMBER.NAME`, generators of PyTorch

    @property
    def place(self) -> tuple[int, int, int]:
        "The fit (0; with frozen epochs before, 1 is all layers'), its epoch and that one's batch that come next."
        return tuple(self.told["place"])

    def part(
        self,
        name: str,  # such as "model"
    ) -> dict[str, torch.Tensor]:
        "The tensors below a name."
        return {k.removeprefix(f"{name}."): v for k, v in self.tensors.items() if k.startswith(f"{name}.")}


def state_file(
    run: str | Path,  # a run's folder
) -> Path:
    "Where a run keeps its state."
    return Path(run) / "weights" / "last" / "state.safetensors"


def write_state(
    run: str | Path,  # a run's folder
    state: State,
):
    "Put a state in the place of the one before, in one step."
    write_bytes(state_file(run), packed(state))


def packed(
    state: State,
) -> bytes:
    "A state as its file holds it."
    told, tensors = json.dumps(state.told), own_memory(state.tensors)
    header = {"format": str(FORMAT), "told": told, "check_told": _check(told, {}), "check": _check(told, tensors)}
    return save(tensors, metadata=header)


def own_memory(
    tensors: dict[str, torch.Tensor],  # by name
) -> dict[str, torch.Tensor]:  # on the CPU, contiguous
    "As safetensors takes them: no two in one memory, as tied weights are. These become two of the same."
    made, seen = {}, set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        place = tensor.untyped_storage().data_ptr()
        made[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return made


def read_told(
    run: str | Path,  # a run's folder
) -> dict | None:  # None where there is no state
    """The plain values of a run's state, without its tensors: they have a checksum of their own.

    Raises as `read_state` does."""
    found = _read(run, False)
    return None if found is None else found.told


def read_state(
    run: str | Path,  # a run's folder
) -> State | None:  # None where there is none
    """The state of a run, each value in its range; whether it is this run's is for `refuse_misfit` to say.

    Raises `DamagedState`, and `InputError` where it cannot be read or is of a newer version."""
    return _read(run, True)


def _read(run: str | Path, whole: bool) -> State | None:
    file = state_file(run)
    if not os.path.lexists(file):
        return None
    try:
        _refuse_odd(file)
        with safe_open(file, "pt") as f:
            header = f.metadata() or {}
            if int(header.get("format", 0)) > FORMAT:
                raise InputError(f"{file}: written by a newer version; upgrade mura_fastai")
            told = json.loads(header["told"])
            tensors = {k: f.get_tensor(k) for k in f.keys()} if whole else {}  # noqa: SIM118  it is no dict
        # States of earlier versions have one checksum alone, over all.
        sums = {"check_told": _check(header["told"], {})} if "check_told" in header else {}
        sums |= {"check": _check(header["told"], tensors)} if whole else {}
        if any(header.get(k) != v for k, v in sums.items()):
            raise ValueError("its checksum is another")
        check_told(told)
        if whole:
            check_tensors(tensors)
    except InputError:
        raise
    except OSError as e:  # too many open files, a share that is away: the state itself may be whole
        raise InputError(
            f"{file}: cannot be read now ({e.strerror or e}); mend that, and give the command again"
        ) from None
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as e:
        raise _damaged(run, e) from None
    return State(told, tensors)


def _damaged(run: str | Path, why: Exception) -> DamagedState:
    reason = " ".join(str(why).split())[:200]
    return DamagedState(
        f"{state_file(run)}: damaged ({reason}); bring back a whole one, or train anew into another folder "
        "(mura train --out)"
    )


def _refuse_odd(file: Path):
    "A pipe would be waited for, and a header of gigabytes made into values, before any of it is looked at."
    if not file.is_file():
        raise OSError(errno.EINVAL, "it is no file")
    with open(file, "rb") as f:
        if int.from_bytes(f.read(8), "little") > _LARGEST:
            raise ValueError("its header has no end")


def _check(told: str, tensors: dict[str, torch.Tensor]) -> str:
    crc = zlib.crc32(told.encode())
    for name in sorted(tensors):
        flat = tensors[name].reshape(-1).view(torch.uint8) if tensors[name].numel() else torch.empty(0)
        crc = zlib.crc32(flat.numpy(), zlib.crc32(name.encode(), crc))
    return f"{crc:08x}"


# ---------------------------------------------------------------- of a Learner


def refuse_misfit(
    learn: Learner,  # made as the settings of the run say
    state: State,
    run: str | Path,  # its folder
    schedule: str,  # of its settings
):
    "Raise `DamagedState` where a state is none of this Learner's training: before anything is written, or learned."
    if learn.opt is None:
        learn.create_opt()
    try:
        check_learner(learn, state.told, state.tensors, schedule)
    except ValueError as e:
        raise _damaged(run, e) from None


def capture(
    learn: Learner,  # in the middle of `fit`
    optimizer: bool = True,  # False after the last step: what it knows is of no more use
) -> State:
    "What a Learner is in the middle of, but for its generators and for what the run keeps beside it."
    smooth, scaler = learn.recorder.smooth_loss, getattr(learn, "scaler", None)
    told = dict(
        smooth=smooth.count, train_iter=learn.train_iter, pct_train=float(learn.pct_train),
        scaler=scaler.state_dict() if scaler else None,
        plateau=[[float(cb.best), cb.wait] for cb in learn.cbs if isinstance(cb, PlateauDecay)],
    )  # fmt: skip
    tensors = {f"model.{k}": v for k, v in learn.model.state_dict().items()} | {"smooth.val": smooth.val}
    if optimizer:
        groups = learn.opt.opt.param_groups
        told["groups"] = [{k: _plain(group[k]) for k in _GROUP} for group in groups]
        for i, p in enumerate(p for group in groups for p in group["params"]):
            tensors |= {f"opt.{i}.{k}": v for k, v in learn.opt.opt.state.get(p, {}).items()}
    return State(told, tensors)


def restore(
    learn: Learner,  # made as the one that the state is of (`refuse_misfit`), before a pass over its training data
    state: State,
    same_fit: bool = True,  # False in the fit after: what belongs to one fit begins anew
):
    "Make a Learner what it was, its generators apart."
    learn.model.load_state_dict(state.part("model"))
    if not same_fit:
        return
    told = state.told
    groups = learn.opt.opt.param_groups
    for group, kept in zip(groups, told["groups"], strict=True):
        group |= {k: tuple(v) if isinstance(v, list) else v for k, v in kept.items()}
    params = [p for group in groups for p in group["params"]]
    for name, value in state.part("opt").items():
        i, _, kind = name.partition(".")
        # Laid out in memory as the parameter is: the fused step goes through both without looking.
        learn.opt.opt.state[params[int(i)]][kind] = _like(value, params[int(i)])
    smooth = learn.recorder.smooth_loss
    smooth.count, smooth.val = told["smooth"], state.tensors["smooth.val"]
    learn.train_iter = told["train_iter"]
    if state.place[2]:  # each epoch begins at a share that fastai computes anew, without what adding up has lost
        learn.pct_train = told["pct_train"]
    if told["scaler"]:
        learn.scaler.load_state_dict(told["scaler"])
    for cb, (best, wait) in zip([cb for cb in learn.cbs if isinstance(cb, PlateauDecay)], told["plateau"], strict=True):
        cb.best, cb.wait = best, wait


def _plain(value) -> float | list:
    return [float(v) for v in value] if isinstance(value, tuple) else float(value)


def _like(value: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(p, dtype=value.dtype).copy_(value) if value.shape == p.shape else value.to(p.device)


# ---------------------------------------------------------------- generators of random numbers


def random_state() -> tuple[dict, dict]:  # plain values; tensors
    "What Python, NumPy and PyTorch would draw next."
    kind, key, *rest = np.random.get_state()
    tensors = {"random.torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors |= {f"random.cuda{i}": s for i, s in enumerate(torch.cuda.get_rng_state_all())}
    return dict(python=random.getstate(), numpy=[kind, key.tolist(), *rest]), tensors


def set_random_state(
    told: dict,  # from `random_state`, as JSON gives it back
    tensors: dict,
):
    "Have them draw the same again."
    random.setstate(python_state(told["python"]))
    kind, key, *rest = told["numpy"]
    np.random.set_state((kind, np.array(key, np.uint32), *rest))
    torch.set_rng_state(tensors["random.torch"])
    if torch.cuda.is_available() and "random.cuda0" in tensors:
        of_gpus = [tensors[f"random.cuda{i}"] for i in range(torch.cuda.device_count()) if f"random.cuda{i}" in tensors]
        torch.cuda.set_rng_state_all(of_gpus)


def python_state(
    kept: list,  # `random.Random.getstate()`, as JSON gives it back
) -> tuple:
    "As `setstate` wants it."
    version, numbers, gauss = kept
    return version, tuple(numbers), gauss
