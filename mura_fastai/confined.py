"""Nothing outside is read or written: a run's files lie in its folder, and its images in the folder of its data."""

import os
from collections.abc import Iterable
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from shlex import quote

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


def data_folder(
    data: dict | None,  # the table `data` of a run's settings: path, source
) -> str | None:  # None where it names none: nothing, a relative path, or a folder that holds the whole machine
    "The folder that the images of a run lie in."
    told = data.get("path") if isinstance(data, dict) else None
    if not isinstance(told, str) or not os.path.isabs(told):
        return None
    root = os.path.dirname(told) if data.get("source") == "csv" else told
    whole = {os.path.normpath(root), os.path.realpath(root)} & {os.sep, 2 * os.sep}
    return None if whole else root


def told_folder(
    data: dict | None,  # as of `data_folder`
) -> PurePath | None:  # None where it names none
    "The same folder as the run's own machine calls it, which may be of another system; nothing is looked up here."
    told = data.get("path") if isinstance(data, dict) else None
    if not isinstance(told, str):
        return None
    path = (PurePosixPath if told.startswith("/") else PureWindowsPath)(told)
    root = path.parent if data.get("source") == "csv" else path
    return root if path.is_absolute() and root.name else None


def resuming(
    run: str | Path,  # a run's folder, or one of several runs
) -> str:
    "The command that goes on with it, ready to be pasted into a shell."
    return f"mura resume {quote(str(run))}"


def relocating(
    run: str | Path,  # a run's folder
) -> str:
    "The command that says where the data of a run lies now; of one of several, that for all of them."
    several = (Path(run).parent / "repeats.yaml").is_file()
    return f"mura relocate {quote(str(Path(run).parent if several else run))} FOLDER"


def refuse_outside(
    paths: Iterable[str],  # of images, as a run's table names them
    data: dict | None,  # the table `data` of its settings: path, source
    file: str | Path,  # the table, for the message
):
    """Raise `InputError` for an image that is on this machine, and elsewhere than the data that the run was made from.

    None is opened. A run may come from anybody; its tables shall not point a report at other pictures. Those of a run
    whose data is not here are names and nothing else. Settings that name no folder of data allow no image at all."""
    root, known = data_folder(data), {}
    inside = None if root is None else os.path.join(os.path.realpath(root), "")
    for path in paths:
        if not isinstance(path, str) or not os.path.exists(path):
            continue
        if inside and _leads_to(path, known).startswith(inside):
            continue
        if root is None:
            raise InputError(
                f"{file}: {path!r} is on this machine, and settings.yaml does not say that the run's data lies there; "
                f"put the folder of the data into it, as data.path (a whole path, and not {os.sep})"
            )
        raise InputError(
            f"{file}: {path!r} lies outside of the run's data, {root}; if the data was moved, "
            f"say where it is now: {relocating(Path(file).parent)}"
        )


def _leads_to(path: str, known: dict[str, str]) -> str:
    "What is opened under this path, links and `..` followed: what it looks like says nothing. `known`: folders before."
    folder, name = os.path.split(path)
    if folder not in known:  # a table has many images in one folder
        known[folder] = os.path.realpath(folder)
    there = os.path.join(known[folder], name)
    return os.path.realpath(there) if os.path.islink(there) else there


def named_data(
    paths: Iterable[str],  # of images that a run is about to be made from
    data: dict | None,  # what is known of where they come from
) -> dict:  # the same with a `path`: the deepest folder that holds all of them, where none is given
    """Where a run's data lies, so that `refuse_outside` lets it be seen later on.

    Raises `InputError` where it would not be: for images outside of the folder that is given, and where none but the
    file system's root holds all of them."""
    data, paths = dict(data or {}), list(paths)
    if data.get("path"):
        data["path"] = os.path.abspath(os.path.expanduser(data["path"]))
        if data_folder(data) is None:
            raise InputError(f"{data['path']}: the data lies in {os.sep} itself; put it into a folder of its own")
    elif paths:
        data["path"] = os.path.commonpath([os.path.dirname(os.path.realpath(p)) for p in paths])
        if data_folder(data) is None:
            raise InputError(f"the images have no folder in common but {os.sep}: gather them in one")
    root = data_folder(data)
    try:
        refuse_outside(paths, data, "images")
    except InputError:
        raise InputError(
            f"{root}: some of the images lie outside of it; name a folder that holds all of them (data=dict(path=...))"
        ) from None
    return data
