"""Is a file whole, and is what a command left the same as what another left? For `tests/faults.py`."""

import csv
import json
import zlib
from pathlib import Path

import numpy as np
import yaml
from safetensors.numpy import load_file
from safetensors.torch import load

from mura_fastai.data.pixels import pad_square, read_grey
from mura_fastai.data.store_files import GOOD, read_store
from mura_fastai.training.state import State


def _whole_store(folder: Path):
    "A store's decoded rows hold the pixels of their files; what is not decoded is not said to be."
    found = read_store(folder)
    if found is not None:
        index, array = found
        for row, (path, status) in enumerate(zip(index.path, index.status, strict=True)):
            if status == GOOD and not np.array_equal(array[row], pad_square(read_grey(path), array.shape[1])):
                raise ValueError(f"{path}: other pixels in the store")


def _whole_csv(file: Path):
    text = file.read_text(encoding="utf-8", errors="surrogateescape")
    rows = list(csv.reader(text.splitlines(), strict=True))
    if not text.endswith("\n") or len({len(row) for row in rows}) != 1:
        raise ValueError("cut off")


READ = {
    ".csv": _whole_csv,
    ".yaml": lambda f: yaml.safe_load(f.read_text(encoding="utf-8"))["format"],
    ".json": lambda f: json.loads(f.read_text(encoding="utf-8")),
    ".safetensors": load_file,
    ".png": read_grey,
    ".npz": lambda f: {k: v.sum() if v.dtype.kind in "iu" else v.size for k, v in np.load(f).items()},
    ".npy": lambda f: _whole_store(f.parent),
    ".txt": lambda f: f.read_text(encoding="utf-8"),
}


def torn(
    folder: Path,  # what a command wrote
) -> list[str]:  # what is wrong
    "Files with their final names that are not whole. What is hidden is under way."
    wrong = []
    for file in sorted(f for f in folder.rglob("*") if f.is_file()):
        name = file.relative_to(folder)
        if not any(part.startswith(".") for part in name.parts):
            try:
                READ[file.suffix](file)
            except Exception as e:
                wrong.append(f"{name} is torn: {type(e).__name__}: {e}")
    return wrong


def outcome(
    folder: Path,  # what a command wrote
    said: str = "",  # what it printed
) -> dict[str, object]:  # file -> what must be the same in an undisturbed one
    "All that a command left, without what tells the time."
    found = {"stdout": said}
    for file in sorted(f for f in folder.rglob("*") if f.is_file()):
        name, data = str(file.relative_to(folder)), file.read_bytes()
        if file.name == "history.csv":
            rows = list(csv.DictReader(data.decode().splitlines()))
            data = [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
        elif file.name in ("settings.yaml", "repeats.yaml"):  # somebody may commit to the package meanwhile
            data = {k: v for k, v in yaml.safe_load(data).items() if k != "commit"}
        elif file.suffix == ".npz":  # a ZIP tells when it was written
            data = READ[".npz"](file)
        elif file.name == "state.safetensors":
            data = state_parts(unpacked(data))
        found |= {f"{name}, {k}": v for k, v in data.items()} if file.name == "state.safetensors" else {name: data}
    return found


def unpacked(
    data: bytes,  # of a state's file
) -> State:
    "What a state holds, nothing of it asked for."
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    return State(json.loads(header["told"]), load(data))


def state_parts(
    state: State,
) -> dict[str, object]:  # part -> what must be the same in an undisturbed training
    """All of a state but the seconds that an epoch took, part by part.

    Weights, moments of the optimizer, the smoothed loss, generators, loaders, history, best epoch, place, settings."""
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in state.told["rows"]]
    parts = {k: json.dumps(v) for k, v in (state.told | {"rows": rows}).items()}  # as text, in which nan is nan
    for name, tensor in sorted(state.tensors.items()):
        part, tensor = name.partition(".")[0], tensor.detach().cpu().contiguous()
        held = f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode() + tensor.numpy().tobytes()
        parts[f"tensors of {part}"] = zlib.crc32(held, parts.get(f"tensors of {part}", 0))
    return parts


def differences(
    got: dict,  # from `outcome`
    wanted: dict,
) -> list[str]:
    "What differs from the undisturbed."
    lost, more = wanted.keys() - got.keys(), got.keys() - wanted.keys()
    changed = [k for k in wanted.keys() & got.keys() if got[k] != wanted[k]]
    said = [f"{k} is lost" for k in lost] + [f"{k} is left over" for k in more] + [f"{k} is another" for k in changed]
    return sorted(said)[:3] + [f"and {len(said) - 3} more"] * (len(said) > 3)
