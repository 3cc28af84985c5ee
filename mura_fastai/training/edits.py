"""What somebody changed where labels come from since a training began: a study, and what was and is said of it."""

from pathlib import Path

import pandas as pd

from mura_fastai.bars import stderr_bar
from mura_fastai.data.sources import read_images
from mura_fastai.errors import InputError
from mura_fastai.training.tables import read_table


def source_edits(
    run: str | Path,  # a run's folder, with its images.csv
    data: dict,  # of its settings.yaml
) -> str | None:  # None where the run's table would be the same again
    "What the source says now, and did not as the run began."
    try:
        now = _source_rows(run, data)
    except InputError as e:  # its remedy would not be ours
        return str(e).partition("; ")[0]
    # Folds have splits of their own, and not all the rows.
    return difference(read_table(Path(run) / "images.csv"), now, bool(data.get("folds")))


def table_edits(
    run: str | Path,  # a run's folder
    data: dict,  # of its settings.yaml; the source is as it was
    images: pd.DataFrame,  # its images.csv
) -> str | None:  # None where the source cannot tell
    "What a run's own table says now, and the source does not that it was made from."
    if not data.get("tables") or data.get("folds"):
        return None
    try:
        return difference(_source_rows(run, data), images)
    except InputError:  # it is away
        return None


def _source_rows(run: str | Path, data: dict) -> pd.DataFrame:
    "The rows that a run would be made from now, without those that it could not use."
    how = dict(max_bad=1.0, seed=data.get("split_seed", 0), allow_leaks=True, decode=False)
    how |= dict(progress=stderr_bar("checking images"))
    rows, skipped = read_images(data["path"], data.get("source"), **how), Path(run) / "skipped.csv"
    if isinstance(data.get("regions"), list):
        rows = rows[rows.region.isin(data["regions"])]
    if skipped.exists():
        rows = rows[~rows.path.isin(pd.read_csv(skipped, dtype="str", encoding_errors="surrogateescape").path)]
    return rows


def difference(
    then: pd.DataFrame,  # an images table
    now: pd.DataFrame,  # another
    part: bool = False,  # `then` holds some of the rows, under other splits
) -> str | None:  # None where they say the same of all studies
    "The first study that two tables differ in, what each says of it, and how many more there are."
    columns = {k: (k, "first") for k in ("label", "region", "patient", *(() if part else ("split",)))}
    before, after = (t.groupby("study", sort=False).agg(**columns, images=("path", "size")) for t in (then, now))
    both = before.index[before.index.isin(after.index)]
    for what in before:
        a, b = before.loc[both, what], after.loc[both, what]
        # A blank beside a label is neither the same nor another to pandas.
        if (differ := both[((a != b).fillna(True) & ~(a.isna() & b.isna())).astype(bool)]).size:
            a, b = (_shown(o[differ[0]]) for o in (a, b))
            return f"study {differ[0]}: {what} {a} then, {b} now{_more(differ)}"
    if (gone := before.index[~before.index.isin(after.index)]).size:
        return f"study {gone[0]} then, and not now{_more(gone)}"
    if not part and (new := after.index[~after.index.isin(before.index)]).size:
        return f"study {new[0]} now, and not then{_more(new)}"
    return None


def _shown(value) -> str:
    return "blank" if pd.isna(value) or value == "" else str(value) if isinstance(value, str) else f"{value:g}"


def _more(differ: pd.Index) -> str:
    return f" (and {differ.size - 1} more)" if differ.size > 1 else ""
