"""Nothing outside is read or written: a run's files lie in its folder, and its images in the folder of its data."""

import os
from collections.abc import Iterable
from pathlib import Path

from mura_fastai.errors import InputError


def refuse_links(
    folder: str | Path,  # a run's folder; it may be a link itself
):
    """Raise `InputError` for a link in it that leads out: through `figures` or `weights` a command would write there.

    A folder that came from elsewhere may hold such links; what one's own lead to is copied in its place."""
    real = os.path.realpath(folder)
    for where, folders, names in os.walk(folder):
        for name in folders + names:
            path = os.path.join(where, name)
            if os.path.islink(path):
                target = os.path.realpath(path)
                if target != real and not target.startswith(real + os.sep):
                    raise InputError(f"{path}: a link that leads out of the run; put what it leads to in its place")


def refuse_outside(
    paths: Iterable[str],  # of images, as a run's table names them
    data: dict | None,  # the table `data` of its settings: path, source; where it names no path, all may be right
    file: str | Path,  # the table, for the message
):
    """Raise `InputError` for an image that is on this machine, and elsewhere than the data that the run was made from.

    None is opened. A run may come from anybody; its tables shall not point a report at other pictures. Those of a run
    whose data is not here are names and nothing else."""
    told = (data or {}).get("path")
    if not told or not os.path.isabs(told):
        return
    root = os.path.dirname(told) if (data or {}).get("source") == "csv" else told
    # A path of one's own table that went through `..` was resolved when it was read.
    roots = tuple(os.path.join(r, "") for r in {os.path.normpath(root), os.path.realpath(root)})
    for path in paths:
        inside = os.path.isabs(path) and os.path.normpath(path).startswith(roots)
        if not inside and os.path.exists(path):
            raise InputError(
                f"{file}: {path!r} lies outside of the run's data, {root}; if the data was moved, "
                f"change data.path in settings.yaml as well"
            )
