"""Numbers and tables for a terminal, written one way everywhere."""

import math
from collections.abc import Sequence

import pandas as pd


def short(
    x: float,  # any number
    digits: int = 3,  # after the point, below 1
) -> str:
    "0.6904 as .690, -0.05 as -.05, 1 as wide as these, and NaN as n/a."
    if math.isnan(x):
        return "n/a"
    x = round(x, digits) + 0.0  # + 0.0: no -.00
    return f"{x:.{digits}f}".replace("0.", ".", 1) if abs(x) < 1 else f"{x:.{digits - 1}f}"


def with_interval(
    x: float,  # the number
    lo: float = math.nan,  # its interval; none is written where it is NaN
    hi: float = math.nan,
    digits: int = 3,  # of the number
    digits_between: int = 2,  # of the interval
) -> str:
    ".690 [.64, .73], or n/a."
    between = f" [{short(lo, digits_between)}, {short(hi, digits_between)}]"
    return short(x, digits) + ("" if math.isnan(x) or math.isnan(lo) else between)


def name_some(
    names,  # of anything
    k: int = 3,  # how many to name
) -> str:
    "The first few names in a line, and how many more there are."
    names = [str(o) for o in names]
    return ", ".join(names[:k]) + (f" and {len(names) - k} more" if len(names) > k else "")


def one_of(
    n: int,  # how many
    thing: str,  # its name
    things: str | None = None,  # of several, where it is not made with s, or ies for y
) -> str:
    "1 study, 1,199 studies."
    return f"{n:,} {thing if n == 1 else things or (f'{thing[:-1]}ies' if thing.endswith('y') else f'{thing}s')}"


def one_line(
    name,  # from a file or a folder, so anything
    width: int = 40,
) -> str:
    "A name that cannot tear a table: no line breaks, and cut where it is too long."
    name = " ".join(str(name).split())
    return name if len(name) <= width else f"{name[: width - 3]}..."


def plain_rows(
    table: pd.DataFrame,  # of numbers and texts, with one index
    whole: Sequence[str] = (),  # columns of whole numbers
) -> dict:  # index -> {column: number, text or None}
    "A table ready for `json.dumps`: whole numbers stay whole, NaN becomes None."

    def plain(column, value):
        if isinstance(value, str):
            return value
        return None if pd.isna(value) else int(value) if column in whole else float(value)

    return {str(i): {k: plain(k, v) for k, v in row.items()} for i, row in table.iterrows()}


def aligned(
    rows: Sequence[Sequence[str]],  # the first one is the header
    right: Sequence[int] = (),  # columns that stand to the right, as counts do
) -> list[str]:  # lines
    "Columns side by side, two blanks between them."
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        .rstrip()
        for row in rows
    ]  # fmt: skip


def ruled(
    lines: list[str],
    last: int = 2,  # rows below the rule: sums and means
) -> list[str]:
    "A rule above the last rows of a table."
    return [*lines[:-last], "-" * max(map(len, lines)), *lines[-last:]]
