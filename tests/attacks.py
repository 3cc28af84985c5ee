"""Full disks, closed folders, two commands at once, fifty epochs: what is said, what stays, and what is left behind.

Each attack gives a list of what was wrong, empty where nothing was. `tests/test_faults.py` asks for all of them.
"""

import argparse
import ctypes
import gc
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

from children import Child, Ended, little_memory, members, mura, small_files
from faults import Bench, Case, cases
from whole import differences, outcome, torn

NOBODY = 65534


def refused(
    told: Ended,
    codes: tuple,  # exit codes that are right
    *words: str,  # that must be in its line
) -> list[str]:
    "What is wrong with how a command refused."
    lines = [line for line in told.err.splitlines() if line.startswith("mura: ")]
    wrong = [] if told.code in codes else [f"exit {told.code}, not {' or '.join(map(str, codes))}: {told.err[-400:]}"]
    wrong += ["a traceback"] if "Traceback" in told.err else []
    wrong += [] if len(lines) == 1 else [f"{len(lines)} lines of error"]
    wrong += [f"no {w!r} in: {' '.join(lines)[:300]}" for w in words if w not in " ".join(lines)]
    return wrong


class Attacks:
    "All of them, on one bench."

    def __init__(self, bench: Bench):
        self.bench, self.cases = bench, {c.name.split(",")[0]: c for c in cases(bench)}

    def _again(self, case: Case, place: Path) -> list[str]:
        "The command given again, with room: it ends as if nothing had been."
        told = self.bench.go(case.again(place))
        wanted, _ = self.bench.undisturbed(case)
        got = outcome(place) | {"stdout": wanted["stdout"]}
        return [f"given again: {told.fault}"] if told.fault else differences(got, wanted)

    def full_disk_in_training(self) -> list[str]:
        "Weights take 1.6 MB, the state more: no file may have more than 1 MB."
        case = self.cases["train"]
        place = self.bench.fresh(case)
        told = self.bench.go(case.start(place), prepare=small_files(1_000_000))
        return refused(told, (1,), "safetensors", "MB", "mura resume") + torn(place) + self._again(case, place)

    def disk_fills_up_between_epochs(self) -> list[str]:
        "The state stays as it is, byte by byte; an epoch that was trained again has the same row in the history."
        case = self.cases["train"]
        place = self.bench.fresh(case)
        child = self.bench.begin(case.start(place))
        state, history = place / "run" / "weights" / "last" / "state.safetensors", place / "run" / "history.csv"
        end = time.monotonic() + 100
        while not (history.exists() and state.exists()) and time.monotonic() < end:
            time.sleep(0.002)
        child.kill_after(0)
        if child.wait().code == 0:
            return ["it was faster than the kill"]
        before, rows = state.read_bytes(), outcome(place / "run")["history.csv"]
        told = self.bench.go(case.again(place), prepare=small_files(1_000_000))
        wrong = refused(told, (1,), "MB", "mura resume") + torn(place)
        wrong += [] if state.read_bytes() == before else ["the state has changed"]
        wrong += [] if outcome(place / "run")["history.csv"][: len(rows)] == rows else ["the history has changed"]
        return wrong + self._again(case, place)

    def full_disk_for_a_store(self) -> list[str]:
        case = self.cases["prepare"]
        place = self.bench.fresh(case)
        told = self.bench.go(case.start(place), prepare=small_files(1_000_000))
        return refused(told, (1, 2), "store", "need 0.0", " GB (") + torn(place) + self._again(case, place)

    def full_disk_for_a_phantom(self) -> list[str]:
        case = self.cases["phantom"]
        place = self.bench.fresh(case)
        told = self.bench.go(case.start(place), prepare=small_files(4_000))
        left = [f.name for f in place.iterdir() if f.name != "cache"]
        wrong = refused(told, (1,), f"{place / 'p'}: ", "MB")
        return wrong + [f"{n} is left" for n in left] + self._again(case, place)

    def full_disk_for_predictions(self) -> list[str]:
        "Those that were there stay."
        case = self.cases["predict"]
        place = self.bench.fresh(case)
        (place / "predictions.csv").write_text("kept\n")
        shutil.copy(self.bench.trained() / "decision.yaml", place / "run")
        told = self.bench.go(case.start(place), prepare=small_files(3_000))
        wrong = refused(told, (1,), "predictions.csv", "MB")
        kept = (place / "predictions.csv").read_text() == "kept\n"
        return wrong + ([] if kept else ["the old predictions are gone"])

    def really_full_disk(self) -> list[str] | None:
        "A file system of a megabyte, where this process may mount one."
        libc, place = ctypes.CDLL(None, use_errno=True), self.bench.fresh(self.cases["train"])
        disk = self.bench.folder / "disk"
        disk.mkdir(exist_ok=True)
        if libc.mount(b"none", os.fsencode(disk), b"tmpfs", 0, b"size=1m") != 0:
            return None
        try:
            arguments = self.cases["train"].start(place)
            told = self.bench.go([*arguments[:-1], disk / "run"])
            wrong = refused(told, (1,), "No space left on device", str(disk), "MB") + torn(disk)
            shutil.rmtree(disk / "run")
            told = self.bench.go(["prepare", self.bench.data, "--size", 320, "-o", disk / "store"])
            wrong += refused(told, (1, 2), "need 0.0", " GB (")
            told = self.bench.go(["phantom", disk / "p", "--studies", 60, "--size", 300])
            return wrong + refused(told, (1,), "No space left on device", str(disk / "p"), "MB")
        finally:
            libc.umount2(os.fsencode(disk), 2)

    def out_of_memory(self) -> list[str]:
        "Batches too large for what memory there is: one line, no run that is in the way, and smaller ones train."
        case = self.cases["train"]
        place, wrong = self.bench.fresh(case), []
        how = ["train", self.bench.data, "--epochs", 1, "--workers", 1, "--ci", "none", "--no-store"]
        for more, size in ((60, 256), (400, 256), (1200, 512)):
            large = [*how, "--size", size, "--bs", 64, "--out", place / "run"]
            told = self.bench.go(large, prepare=little_memory(more * 2**20))
            wrong += [f"{more} MB: {w}" for w in refused(told, (1,), "memory", "lower --bs or --size")]
            wrong += [f"{more} MB: {f.name} is left" for f in place.iterdir() if f.name != "cache"]
        told = self.bench.go([*how, "--size", 32, "--bs", 16, "--out", place / "run"])
        return wrong + ([f"smaller: {told.fault}"] if told.fault else torn(place))

    def closed_folders(self) -> list[str]:
        "Nothing can be written in a folder: said at the start, in one line, with exit code 2."
        place = self.bench.fresh(self.cases["predict"])
        closed, run, data = place / "closed", place / "run", self.bench.data
        closed.mkdir()
        shutil.copytree(self.bench.trained(), closed / "run")
        for folder in (closed, closed / "run", closed / "run" / "weights"):
            folder.chmod(0o555)
        for folder in (self.bench.folder, place, place.with_name("now-said")):
            folder.mkdir(exist_ok=True)
            folder.chmod(0o755)
        cache = place / "cache"
        cache.mkdir()
        cache.chmod(0o777)

        def unprivileged():
            if os.getuid() == 0:  # nothing is closed to root
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)

        def go(*arguments, cache=cache):
            return Child(mura(*arguments, cache=cache), place, prepare=unprivileged).wait()

        how = ["--size", 32, "--epochs", 1, "--bs", 16, "--workers", 1, "--ci", "none"]
        wrong = {
            "prepare": refused(go("prepare", data, "--size", 32, "-o", closed / "store"), (2,), str(closed / "store")),
            "phantom": refused(go("phantom", closed / "p", "--studies", 10, "--size", 96), (2,), str(closed / "p")),
            "train": refused(go("train", data, *how, "--out", closed / "new"), (2,), str(closed / "new")),
            "resume": refused(go("resume", closed / "run"), (2,), str(closed / "run")),
            "predict": refused(go("predict", run, data, "-o", closed / "p.csv"), (1, 2), str(closed / "p.csv")),
            "cache": refused(go("train", data, *how, "--out", cache / "r", cache=closed / "c"), (2,), str(closed)),
        }  # fmt: skip
        told = go("predict", closed / "run", data, "-o", cache / "p.csv")
        wrong["a closed run predicts"] = [told.fault] if told.fault else []
        told = go("audit", data, cache=closed / "c")
        wrong["a closed cache audits"] = [told.fault] if told.fault else []
        for folder in (closed, closed / "run", closed / "run" / "weights"):
            folder.chmod(0o755)
        return [f"{k}: {w}" for k, one in wrong.items() for w in one]

    def two_trainings_at_once(self) -> list[str]:
        return self._twice("train")

    def two_at_once(self) -> list[str]:
        return self._twice("prepare", "phantom", "predict", "audit")

    def _twice(self, *names: str) -> list[str]:
        "Both end well, or one says that it is not alone; what they leave is what one leaves."
        wrong = []
        for name in names:
            case = self.cases[name]
            wanted, _ = self.bench.undisturbed(case)
            place = self.bench.fresh(case)
            arguments = case.start(place)
            both = [self.bench.begin(arguments, name=f"child{i}") for i in range(2)]
            ends = [child.wait() for child in both]
            codes = sorted(e.code for e in ends)
            if codes not in ([0, 0], [0, 2]):
                wrong.append(f"{name}: exits {codes}: {' '.join(e.err[-300:] for e in ends)}")
            for end in ends:
                wrong += [f"{name}: {w}" for w in (refused(end, (2,)) if end.code == 2 else [])]
            got = outcome(place) | {"stdout": wanted["stdout"]}
            wrong += [f"{name}: {w}" for w in torn(place) + differences(got, wanted)]
        return wrong

    def fifty_epochs(self) -> tuple[list[str], str]:
        "A process that trains on holds no more memory at epoch 50 than at epoch 10."
        place = self.bench.fresh(self.cases["phantom"])
        self.bench.go(["phantom", place / "p", "--studies", 12, "--size", 96])
        how = ["--size", 32, "--epochs", 50, "--bs", 8, "--workers", 1, "--ci", "none", "--out", place / "run"]
        child, held = self.bench.begin(["train", place / "p", *how]), {}
        while not os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            epoch = child.said["err"].read_text().count("tune loss") if child.said["err"].exists() else 0
            if epoch and epoch not in held:
                status = Path(f"/proc/{child.pid}/status").read_text()
                held[epoch] = int(status.partition("VmRSS:")[2].split()[0]) / 1024 if "VmRSS:" in status else None
            time.sleep(0.005)
        told = child.wait()
        seen = {k: v for k, v in held.items() if v}
        early, late = ([v for k, v in seen.items() if abs(k - at) <= 3] for at in (10, 48))
        if told.fault or not early or not late:
            return [told.fault or f"seen at epochs {sorted(seen)}"], ""
        words = f"{early[-1]:.0f} MB at epoch 10, {late[-1]:.0f} MB at epoch 50"
        return [words] if late[-1] > early[-1] + 8 else [], words

    def nothing_open(self) -> list[str]:
        "Training, predicting and decoding twice in one process: no file, thread or process more than after once."

        def work():
            from mura_fastai.data.sources import read_images
            from mura_fastai.data.store import build_store
            from mura_fastai.results.experiment import predict, train

            def held():
                gc.collect()
                open_files = [os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd") if _is_open(n)]
                return sorted(open_files), threading.active_count(), len(members(os.getpid()))

            os.environ["MURA_CACHE"] = str(place / "cache")
            seen = []
            for i in range(3):
                run, _ = train(self.bench.data, place / f"run{i}", size=32, epochs=1, bs=16, num_workers=2, ci=None)
                predict([run], [self.bench.data / "valid"], place / f"p{i}.csv")
                build_store(read_images(self.bench.data, "mura"), place / f"store{i}", 32)
                seen.append(held())
            (place / "seen.json").write_text(json.dumps(seen))

        place = self.bench.fresh(self.cases["phantom"])
        told = Child(work, place).wait()
        if told.fault:
            return [told.fault]
        _, once, twice = json.loads((place / "seen.json").read_text())
        more = [f for f in twice[0] if f not in once[0] and not f.startswith(("pipe:", "/dev/"))]
        wrong = [f"{f} stays open" for f in more]
        wrong += [f"open files: {once[0]}, then {twice[0]}"] if len(twice[0]) > len(once[0]) else []
        wrong += [f"{twice[1] - once[1]} threads more"] if twice[1] > once[1] else []
        return wrong + ([f"{twice[2]} processes"] if twice[2] != 1 else [])


def _is_open(number: str) -> bool:
    "A folder that is being listed is open too, and gone afterwards."
    return os.path.lexists(f"/proc/self/fd/{number}")


def main() -> int:  # exit code: 1 where an attack did harm
    parser = argparse.ArgumentParser(description="One JSON document on stdout: attack -> {wrong, told}.")
    parser.add_argument("names", nargs="*", help="some attacks only")
    parser.add_argument("--out", type=Path, help="file for a line an attack")
    asked, found, lines = parser.parse_args(), {}, []
    with tempfile.TemporaryDirectory(prefix="mura-attacks-") as folder:
        attacks = Attacks(Bench(Path(folder)))
        names = [n for n in vars(Attacks) if not n.startswith("_")]
        for name in [n for n in names if n in (asked.names or names)]:
            got = getattr(attacks, name)()
            wrong, told = got if isinstance(got, tuple) else (got, "")
            found[name] = {"wrong": wrong, "told": told}
            said = "not possible here" if wrong is None else "; ".join(wrong) or "nothing lost"
            lines.append(f"{name.replace('_', ' '):30s} {said}{f' ({told})' if told and not wrong else ''}")
            print(lines[-1], file=sys.stderr, flush=True)
    if asked.out:
        asked.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(json.dumps(found))
    return int(any(f["wrong"] for f in found.values()))


if __name__ == "__main__":
    sys.exit(main())
