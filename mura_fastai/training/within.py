"""The runs that lie in a folder, for who names the folder above them: what is finished there, and what goes on."""

import shlex
from pathlib import Path

from mura_fastai.confined import resuming
from mura_fastai.errors import InputError
from mura_fastai.text import name_some
from mura_fastai.training.alone import trained_by
from mura_fastai.training.interrupts import BEGUN, DEMO
from mura_fastai.training.plans import is_repeats, read_repeats
from mura_fastai.training.repeats import is_finished


def runs_within(
    folder: str | Path,  # any
) -> list[Path]:  # the last begun one first
    "The runs, plans of several and demos that lie right in a folder."
    files = [file for name in BEGUN for file in Path(folder).glob(f"*/{name}")]
    times = {file.parent: file.stat().st_mtime_ns for file in files}
    return sorted(times, key=times.get, reverse=True)


def is_whole(
    run: str | Path,  # the folder of a run, of several folds or seeds, or of a demo
) -> bool:
    "Whether nothing is left to do there: trained, predicted, scored."
    run = Path(run)
    if (run / DEMO).exists():
        return (run / "report.html").exists()  # which comes last
    if not is_repeats(run):
        return is_finished(run)
    try:
        planned = [run / repeat.name for repeat in read_repeats(run)[1]]
    except InputError:
        return False
    return (run / "metrics.json").exists() and all(map(is_finished, planned))


def refuse_no_run(
    folder: str | Path,  # that was given for a run to go on with
):
    "Raise `InputError` where it is none, naming those in it that are not finished."
    folder = Path(folder)
    if any((folder / name).exists() for name in BEGUN) or not (runs := runs_within(folder)):
        return
    if left := [run for run in runs if not is_whole(run)]:
        raise InputError(f"{folder}: not a run, but holds some; name one that is not finished: {name_some(left)}")
    raise InputError(f"{folder}: not a run, but holds some, all of them finished: {name_some(runs)}")


def refuse_unfinished(
    run: str | Path,  # the folder of all runs
):
    """Raise `InputError` where one of its runs is not finished: says how many are, and what goes on.

    A score of some folds is of some patients, and others than these may be harder; nothing is made up of parts."""
    (record, plan), run = read_repeats(run), Path(run)
    done = [repeat for repeat in plan if is_finished(run / repeat.name)]
    if len(done) == len(plan):
        return
    what = (
        "seeds" if not record.get("folds") else "folds" if len(record["seeds"]) == 1 else "trainings of folds and seeds"
    )
    counts = f"{run}: {len(done)} of {len(plan)} {what} {'is' if len(done) == 1 else 'are'} finished"
    if who := trained_by(run):
        raise InputError(f"{counts}, and all are needed; {who} is training them, wait for it to end")
    one = f"; one by itself: mura evaluate {shlex.quote(str(run / done[0].name))}" if done else ""
    raise InputError(f"{counts}, and all are needed; go on: {resuming(run)}{one}")
