"""CSV files with a header, read strictly: whatever is wrong is named with its line."""

import csv
import io
from pathlib import Path

import pandas as pd

from ..errors import InputError

# What a reader passes over as if it were not there, so that an audit sees the rest: file -> numbers of lines; None for
# the file as a whole.
Without = dict[str, set[int] | None] | None


def read_table(
    file: str | Path,  # a CSV with a header; a byte-order mark is accepted
    required: tuple[str, ...],  # columns that must be there
    without: Without = None,  # lines of it to pass over
) -> pd.DataFrame:  # all cells as stripped text, and `_line`, the line each row ends on
    "Read a CSV, or raise `InputError` for a missing, empty, badly encoded, ragged or badly quoted one."
    file = Path(file)
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{file}: no such file; give a CSV with the columns {', '.join(required)}") from None
    except OSError as e:
        raise InputError(f"{file}: cannot be read ({e.strerror or e}); mend that, and give the command again") from None
    except UnicodeDecodeError as e:
        line = e.object[: e.start].count(b"\n") + 1
        raise InputError(f"{file}, line {line}: not UTF-8; save the table anew as UTF-8") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows, lines, out = [], [], (without or {}).get(str(file)) or ()
    try:
        for row in reader:
            if row and reader.line_num not in out:
                rows.append([cell.strip() for cell in row])
                lines.append(reader.line_num)
    except csv.Error as e:
        raise InputError(f"{file}, line {reader.line_num}: {e}; close the quote or correct the line") from None
    if not rows:
        raise InputError(f"{file}: empty; the first line names the columns, among them {', '.join(required)}")
    header, rows, lines = rows[0], rows[1:], lines[1:]
    lacking = [c for c in required if c not in header]
    if lacking or len(set(header)) != len(header):
        fault = f"no column {', '.join(lacking)}" if lacking else "a column's name occurs twice"
        raise InputError(f"{file}, line 1: {fault}; found {', '.join(header)[:200]}")
    for row, line in zip(rows, lines, strict=True):
        if len(row) != len(header):
            raise InputError(f"{file}, line {line}: {len(row)} cells where the header has {len(header)}; correct it")
    if not rows:
        raise InputError(f"{file}: a header and no rows; add a row an image")
    return pd.DataFrame(rows, columns=header, dtype="str").assign(_line=lines)


def parse_labels(
    table: pd.DataFrame,  # from `read_table`
    column: str,  # the column that holds 0, 1 or nothing
    file: str | Path,  # for the message
) -> pd.Series:  # Int64, missing where the cell is blank
    "0, 1 or blank; anything else stops with its line."
    wrong = ~table[column].isin(("0", "1", ""))
    if wrong.any():
        first = table[wrong].iloc[0]
        more = f" (and {wrong.sum() - 1} more such lines)" if wrong.sum() > 1 else ""
        raise InputError(f"{file}, line {first._line}: {column} is {first[column]!r}{more}; it must be 0, 1 or blank")
    return table[column].map({"0": 0, "1": 1}).astype("Int64")
