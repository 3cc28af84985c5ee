"""A command of ours as a process of its own that costs no import: the caller has imported all, and forks.

The child runs what `mura` runs, with its own session, cache and output; it can be killed at a moment of time, or
before any step on files. Whoever imports this keeps its process free of threads: a fork takes none along.
"""

import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

PATIENCE = 120.0  # seconds after which a command is said to hang
_STEPS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "shutil.rmtree"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


@dataclass
class Ended:
    "How a command ended."

    code: int  # exit code; minus the signal's number where one ended it
    out: str  # what it printed
    err: str  # what it said on stderr
    seconds: float
    steps: int  # steps on files below the watched folder
    left: list[int] = field(default_factory=list)  # processes of its session that are still there

    @property
    def fault(self) -> str | None:
        "What is wrong with an end that should be a good one."
        if self.code == 0:
            return None
        return f"exit {self.code}: {self.err.strip().splitlines()[-1] if self.err.strip() else 'nothing said'}"


def watch_steps(
    folder: Path,  # steps on files below it count
    die_at: int | None,  # kill this process before that step, from 1
    count_in: int,  # a file's descriptor; a byte is written for each step
):
    "Count the steps on files of this process; its children's do not count. Python tells of each before it is done."
    me, seen, root = os.getpid(), 0, str(folder)

    def step(event, arguments):
        nonlocal seen
        if event not in _STEPS or os.getpid() != me or not arguments:
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & _WRITES):
            return
        path = arguments[0]
        if not isinstance(path, str | bytes | os.PathLike) or not os.fsdecode(path).startswith(root):
            return
        seen += 1
        os.write(count_in, b".")
        if seen == die_at:
            os.kill(me, signal.SIGKILL)

    sys.addaudithook(step)


class Child:
    "A command under way."

    def __init__(
        self,
        work: Callable[[], object],  # run in the child; `SystemExit` gives its exit code
        folder: Path,  # for what the child says; steps on files below it are counted
        die_at: int | None = None,  # kill it before that step on a file
        prepare: Callable[[], object] | None = None,  # run first in the child: limits, another user
        name: str = "child",  # of the files of what it says
    ):
        folder.mkdir(parents=True, exist_ok=True)
        aside = folder.parent / f"{folder.name}-said"
        aside.mkdir(exist_ok=True)
        self.said = {k: aside / f"{name}.{k}" for k in ("out", "err", "steps")}
        sys.stdout.flush()
        sys.stderr.flush()
        self.began = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            self._be(work, folder, die_at, prepare)

    def _be(self, work, folder, die_at, prepare):
        code = 1
        try:
            os.setsid()
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            out, err, steps = (os.open(self.said[k], flags) for k in ("out", "err", "steps"))
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(out, 1)
            os.dup2(err, 2)
            watch_steps(folder, die_at, steps)
            if prepare:
                prepare()
            work()
            code = 0
        except SystemExit as e:
            code = e.code if isinstance(e.code, int) else 0 if e.code is None else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def wait(
        self,
        patience: float = PATIENCE,  # seconds
    ) -> Ended:
        "Its end; killed with all of its session where it does not come, and exit code -99 then."
        end, hangs = time.monotonic() + patience, False
        while True:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                break
            if time.monotonic() > end:
                hangs = True
                os.kill(self.pid, signal.SIGKILL)
                _, status = os.waitpid(self.pid, 0)
                break
            time.sleep(0.005)
        seconds = time.monotonic() - self.began
        left = _gone(self.pid)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        out, err = (self.said[k].read_text(encoding="utf-8", errors="replace") for k in ("out", "err"))
        code = -99 if hangs else os.waitstatus_to_exitcode(status)
        return Ended(code, out, err, seconds, self.said["steps"].stat().st_size, left)

    def kill_after(
        self,
        seconds: float,  # from the start
    ):
        "SIGKILL to this process alone, as the kernel does where memory ends."
        while time.monotonic() < self.began + seconds:
            time.sleep(min(0.002, max(0, self.began + seconds - time.monotonic())))
        os.kill(self.pid, signal.SIGKILL)


def _gone(session: int, patience: float = 10.0) -> list[int]:
    "Processes of a session, once they had time to notice that their parent is no more."
    end = time.monotonic() + patience
    while (left := members(session)) and time.monotonic() < end:
        time.sleep(0.02)
    return left


def members(
    session: int,  # the number of its first process
) -> list[int]:
    "The living processes of a session."
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                state, _, _, sid = Path(entry.path, "stat").read_text().rpartition(")")[2].split()[:4]
            except OSError:
                continue
            if int(sid) == session and state not in "ZX":
                found.append(int(entry.name))
    return found


def mura(
    *arguments: object,  # of the command line
    cache: Path,  # the user's cache folder
) -> Callable[[], None]:
    "What the command `mura` does with these arguments."

    def work():
        from mura_fastai import cli

        os.environ["MURA_CACHE"] = str(cache)
        sys.argv = ["mura", *map(str, arguments)]
        cli.main()

    return work


def small_files(
    limit: int,  # bytes
) -> Callable[[], None]:
    "No file of this process grows beyond so many bytes, as on a full disk."

    def prepare():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # an error then, and no end
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return prepare


def little_memory(
    more: int,  # bytes beyond what the process has taken when it begins
) -> Callable[[], None]:
    "The system gives this process no more memory than so much."

    def prepare():
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + more
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    return prepare
