"""Files that are whole or not there: written aside, flushed, renamed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from mura_fastai.errors import InputError


@contextmanager
def replacing(
    path: str | Path,  # the file to write or to replace
) -> Iterator[Path]:  # where to write it meanwhile, in the same folder
    "Write to the path that is given back; it takes the place of `path` when the block ends well, and goes if not."
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays, since some writers choose the format by it.
    aside = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield aside
        with open(aside, "rb+") as f:
            os.fsync(f.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def write_text(
    path: str | Path,  # the file to write or to replace
    text: str,
):
    "Write UTF-8 text, whole or not at all."
    with replacing(path) as aside:
        aside.write_text(text, encoding="utf-8", errors="surrogateescape")


def read_yaml(
    path: str | Path,  # a file of plain YAML: numbers, text, lists, tables
) -> dict:
    "Read settings; nothing but plain values is made of them. Raises `InputError` for anything else."
    try:
        got = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (UnicodeDecodeError, yaml.YAMLError, OSError) as e:
        raise InputError(f"{path}: not plain YAML ({' '.join(str(e).split())[:120]})") from None
    if not isinstance(got, dict):
        raise InputError(f"{path}: not a table of settings")
    return got
