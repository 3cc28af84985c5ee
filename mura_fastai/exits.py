"""How a command ends: 0 done, 1 failed while running, 2 wrong input or usage, 130 Ctrl-C, 143 SIGTERM.

129 where its terminal was closed: a connection that is lost ends a command as Ctrl-C does."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar

from mura_fastai.errors import InputError, TrainingError, full_memory

SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))
_SAID = ContextVar("_SAID", default=False)  # that the command was stopped, by who knows how it goes on


@contextmanager
def exit_codes() -> Iterator[None]:
    "Turn what a command raises into one line on stderr and an exit code. A fault of the program keeps its traceback."
    _SAID.set(False)
    _end_on_signals()
    sys.stdout.reconfigure(errors="backslashreplace")  # file names may hold bytes that are no text
    try:
        yield
    except InputError as e:
        _fail(e, 2)
    except TrainingError as e:
        _fail(e, 1)
    except (KeyboardInterrupt, SystemExit) as e:
        code = 130 if isinstance(e, KeyboardInterrupt) else e.code
        if code in [128 + number for number in SIGNALS] and not _SAID.get():
            say_stopped("give the command again")
        raise SystemExit(code) from None
    except Exception as e:
        if told := full_memory(e):
            _fail(told, 1)
        if not isinstance(e, OSError):
            raise
        _fail(f"{e.filename}: {e.strerror}" if e.filename and e.strerror else e, 1)


def say_stopped(
    how: str,  # it goes on
):
    "One line on stderr, for a command that a signal ends; `exit_codes` says no other one then."
    _SAID.set(True)
    clear = "\r\x1b[K" if sys.stderr.isatty() else ""
    with suppress(OSError):  # the terminal may be gone
        print(f"{clear}stopped; {how}", file=sys.stderr, flush=True)


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Meanwhile a signal ends the process where it is, with one line on stderr.

    For imports: a signal that is raised within one can come out as an error of another kind, or not at all. Nothing is
    written meanwhile that could be left half made."""

    def end(number, frame):
        say_stopped("give the command again (nothing was begun yet)")
        os._exit(128 + number)

    before = {}
    if threading.current_thread() is threading.main_thread():
        # What is ignored stays so: a job in the background is started so, and Ctrl-C is not meant for it.
        heeded = [number for number in SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
        before = {number: signal.signal(number, end) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_on_signals():
    "End as after an error, so that half-written files are taken away. Python itself does so on Ctrl-C."
    started = os.getpid()

    def stop(number, frame):
        # Worker processes inherit the handler; they have nothing to tidy up.
        if os.getpid() != started:
            os._exit(128 + number)
        raise SystemExit(128 + number)

    for number in SIGNALS:
        # `nohup` has it ignored: that shall stay so.
        if number == signal.SIGTERM or (number != signal.SIGINT and signal.getsignal(number) != signal.SIG_IGN):
            signal.signal(number, stop)


def leave_quietly(
    done: bool,  # the work is done and told: Ctrl-C asks for nothing any more
):
    """Have no signal leave a traceback behind what was said: PyTorch takes a second to be cleared away.

    SIGTERM, a lost terminal, and where the work was not done Ctrl-C too, end the process there and then: a thread that
    it waits for may be reading from a disk that does not answer."""
    with suppress(OSError, ValueError):  # nobody reads on, or the stream is closed
        sys.stdout.flush()
    for number in SIGNALS:
        if done and number == signal.SIGINT:
            signal.signal(number, signal.SIG_IGN)
        elif signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def _fail(what: object, code: int):
    line = " ".join(str(what).split())
    print("mura: " + "".join(c if c.isprintable() else "?" for c in line), file=sys.stderr)
    raise SystemExit(code)
