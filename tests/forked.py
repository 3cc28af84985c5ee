"""Real processes of the real command without seconds of imports for each: a driver imports once, and forks them.

`python tests/forked.py` reads a JSON line a command, starts it, answers its process id, and its exit code at its end.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path


class Mura:
    "Starts commands; their stdout and stderr lie in files."

    def __init__(self, folder):
        self.folder, self.started = Path(folder), 0
        env = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self.driver = subprocess.Popen([sys.executable, __file__], env=env, **pipes)

    def start(self, *arguments, most_bytes=None):
        "A command that is under way. `most_bytes`: of a file it writes, as if the disk were full."
        self.started += 1
        told = self.folder / f"told-{self.started}"
        line = dict(argv=[str(a) for a in arguments], told=str(told), most_bytes=most_bytes)
        self.driver.stdin.write(json.dumps(line) + "\n")
        return Started(self, json.loads(self.driver.stdout.readline())["pid"], told)

    def __call__(self, *arguments, **options):
        "A command, done: exit code, stdout, stderr."
        return self.start(*arguments, **options).end()

    def close(self):
        self.driver.stdin.close()
        self.driver.wait()


class Started:
    "One command under way."

    def __init__(self, mura, pid, told):
        self.mura, self.pid, self.told, self.code = mura, pid, told, None

    def until(self, there):
        "Wait for `there()` to be true; the command must not end before."
        while not there():
            assert self.alive(), self.told.with_suffix(".err").read_text()
            time.sleep(0.002)
        return self

    def alive(self):
        # A child that has ended stays a zombie until the driver has told its code.
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"

    def kill(self, number=signal.SIGKILL):
        os.kill(self.pid, number)
        return self

    def end(self):
        self.mura.driver.stdin.write(json.dumps({"wait": self.pid}) + "\n")
        code = os.waitstatus_to_exitcode(json.loads(self.mura.driver.stdout.readline())["status"])
        return code, *(self.told.with_suffix(s).read_text() for s in (".out", ".err"))


def _child(line):
    for handle, suffix in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(line["told"] + suffix, os.O_CREAT | os.O_WRONLY, 0o600), handle)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job is started with it switched off
    if line["most_bytes"]:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (line["most_bytes"],) * 2)
    from mura_fastai import cli

    sys.argv = ["mura", *line["argv"]]
    code = 70
    try:
        cli.main()
    except SystemExit as e:
        code = e.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _drive():
    from mura_fastai.commands.shared import experiment

    experiment()
    assert threading.active_count() == 1
    for line in map(json.loads, sys.stdin):
        if "wait" in line:
            print(json.dumps({"status": os.waitpid(line["wait"], 0)[1]}), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            _child(line)
        print(json.dumps({"pid": pid}), flush=True)
    os._exit(0)  # PyTorch takes its time to go


if __name__ == "__main__":
    _drive()
