"""How far something has come, in one line on the terminal."""

import shutil
import sys
from collections.abc import Callable


def stderr_bar(
    what: str,  # words for the left of the line, the last one what is counted: "checking images"
) -> Callable[[int, int], None] | None:  # for `progress=`; None where nobody watches
    "Count, rate and time left, in one line on the terminal. Nothing in a pipe."
    if not sys.stderr.isatty():
        return None
    bar = None

    def show(done: int, total: int):
        nonlocal bar
        if bar is None:
            from tqdm import tqdm

            wide, high = shutil.get_terminal_size((90, 24))  # some terminals say 0, and tqdm would show nothing
            bar = tqdm(total=total, desc=what, unit=f" {what.split()[-1]}", file=sys.stderr, ncols=wide, nrows=high)
        bar.update(done - bar.n)
        if done == total:
            bar.close()
            bar = None  # the next count starts a line of its own

    return show
