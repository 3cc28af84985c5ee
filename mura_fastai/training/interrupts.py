"""Ctrl-C, SIGTERM and a lost terminal while a network is trained: heeded where what was learned can be kept."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from mura_fastai.confined import resuming
from mura_fastai.errors import TrainingError
from mura_fastai.exits import SIGNALS, say_stopped
from mura_fastai.files import FULL

DEMO = "demo.yaml"  # what a demo was asked for
BEGUN = ("settings.yaml", "repeats.yaml", DEMO)  # what a folder holds once `mura resume` can go on there


class Stops:
    """Meanwhile a first signal is only noted (`asked`), for the training to end by `end` after its batch.

    A second one ends it at once. Does nothing outside the main thread, where there are no handlers."""

    def __init__(self):
        self.asked, self._before, self._pid = None, {}, os.getpid()

    def __enter__(self) -> "Stops":
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                # Ignored stays ignored: a job in the background is started so, and Ctrl-C is not meant for it.
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind, *_):
        self._give_back()
        if self.asked and kind is None:
            self.end()

    def _note(self, number, frame):
        if os.getpid() != self._pid:  # a process that was forked from this one has nothing to keep
            os._exit(128 + number)
        if self.asked:
            if number == getattr(signal, "SIGHUP", None):  # a shell and the kernel each send one as a terminal closes
                return
            self._give_back()
            self.end()
        self.asked = number
        if sys.stderr.isatty():  # one that was closed is none any more
            os.write(2, b"\nstopping after this batch; once more stops at once\n")

    def _give_back(self):
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def end(self):
        "Raise what the signal stands for: `KeyboardInterrupt`, or `SystemExit` with 143 (129 for a lost terminal)."
        if self.asked == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + self.asked)


_SAYS = ContextVar("_SAYS", default=None)  # how the outermost block goes on, whose folder holds the others'


@contextmanager
def saying_how_to_go_on(
    run: str | Path,  # a run's folder, or one of several runs
    command: str | None = None,  # that goes on; `mura resume` where not given, once there is something to resume
) -> Iterator[None]:
    "Whatever ends the block before its time: one line on stderr says how to go on. A full disk is a `TrainingError`."
    if _SAYS.get() is not None:
        yield
        return

    def how(lead: str = "") -> str:
        if command or any((Path(run) / name).exists() for name in BEGUN):
            return f"{lead}go on: {command or resuming(run)}"
        return "give the command again (nothing was begun yet)"

    before = _SAYS.set([how])
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        say_stopped(how("to "))
        raise
    except OSError as e:
        if e.errno not in FULL:
            raise
        raise TrainingError(f"{e.filename}: {e.strerror}; make room, then {how()}") from None
    finally:
        _SAYS.reset(before)


def say_beforehand():
    "Once in the outermost block of `saying_how_to_go_on`, on stderr: a process that is killed says nothing any more."
    if says := _SAYS.get():
        print(f"if it is interrupted, {says.pop()()}", file=sys.stderr)
