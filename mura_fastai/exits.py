"""How a command ends: 0 done, 1 failed while running, 2 wrong input or usage, 130 Ctrl-C, 143 SIGTERM."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

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


def leave_quietly():
    """Once the work is done and told, Ctrl-C asks for nothing any more: the process is about to end.

    PyTorch takes a second to be cleared away, and a signal that met it there left its traceback behind the results. A
    SIGTERM ends the process there and then."""
    with suppress(OSError, ValueError):  # nobody reads on, or the stream is closed
        sys.stdout.flush()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _fail(what: object, code: int):
    line = " ".join(str(what).split())
    print("mura: " + "".join(c if c.isprintable() else "?" for c in line), file=sys.stderr)
    raise SystemExit(code)
