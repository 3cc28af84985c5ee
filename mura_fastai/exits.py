"""How a command ends: 0 done, 1 failed while running, 2 wrong input or usage, 130 Ctrl-C, 143 SIGTERM."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from mura_fastai.errors import InputError, TrainingError, full_memory


@contextmanager
def exit_codes() -> Iterator[None]:
    "Turn what a command raises into one line on stderr and an exit code. A fault of the program keeps its traceback."
    _end_on_sigterm()
    sys.stdout.reconfigure(errors="backslashreplace")  # file names may hold bytes that are no text
    try:
        yield
    except InputError as e:
        _fail(e, 2)
    except TrainingError as e:
        _fail(e, 1)
    except Exception as e:
        if told := full_memory(e):
            _fail(told, 1)
        if not isinstance(e, OSError):
            raise
        _fail(f"{e.filename}: {e.strerror}" if e.filename and e.strerror else e, 1)


def _end_on_sigterm():
    "End as after an error, so that half-written files are taken away."
    started = os.getpid()

    def stop(*_):
        # Worker processes inherit the handler; they have nothing to tidy up.
        if os.getpid() != started:
            os._exit(143)
        raise SystemExit(143)

    signal.signal(signal.SIGTERM, stop)


def _fail(what: object, code: int):
    line = " ".join(str(what).split())
    print("mura: " + "".join(c if c.isprintable() else "?" for c in line), file=sys.stderr)
    raise SystemExit(code)
