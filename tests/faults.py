"""Kill the commands at any moment: is all that lies there whole, and does the same command then end as if undisturbed?

`make soak-faults` does it a hundred times. A kill is a SIGKILL to a real process, every other one at a random moment of
the command's whole duration, the others right before a random step on its files: opening for writing, renaming,
removing, making a folder. What was done is kept in a log, a line a kill; the same call again goes on there.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ |= {k: "1" for k in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}  # no threads before we fork
os.environ |= {"MPLBACKEND": "Agg", "HF_HUB_OFFLINE": "1"}

import numpy as np
from children import Child, Ended, mura
from whole import differences, outcome, torn

from mura_fastai import cli  # noqa: F401
from mura_fastai.data.phantom import make_phantom
from mura_fastai.results import experiment  # noqa: F401


@dataclass
class Case:
    "A command that is killed, and what it should leave."

    name: str
    share: int  # of a hundred kills
    start: Callable[[Path], list]  # arguments, of the folder it writes in
    again: Callable[[Path], list | None]  # after a kill; None where the work was done by then
    before: Callable[[Path], object] = lambda folder: None  # what lies there already


def cases(
    bench: "Bench",
) -> list[Case]:
    "The commands that are killed."
    data = bench.data

    def train(folder):
        how = ["--size", 32, "--epochs", 2, "--bs", 16, "--save-every", 2, "--workers", 1, "--ci", "none"]
        return ["train", data, *how, "--out", folder / "run"]

    def resume(folder):
        return (
            ["resume", folder / "run", "--ci", "none"] if (folder / "run" / "settings.yaml").exists() else train(folder)
        )

    def folds(folder):
        how = ["--size", 32, "--epochs", 1, "--bs", 16, "--workers", 1, "--folds", 2]
        return ["train", data, *how, "--out", folder / "runs"]

    def prepare(folder):
        return ["prepare", data, "--size", 320, "--workers", 2, "-o", folder / "store"]

    def phantom(folder):  # never drawn into a folder that holds one: it is there, and whole, or it is not
        return None if (folder / "p").exists() else ["phantom", folder / "p", "--studies", 30, "--size", 130]

    def drawn_by_several(folder):  # so many pixels pay for processes
        return None if (folder / "p").exists() else ["phantom", folder / "p", "--studies", 10, "--size", 550]

    def audit(folder):
        return ["audit", data]

    def undecided(folder):
        shutil.copytree(bench.trained(), folder / "run")
        for name in ("decision.yaml", "predictions-tune.csv"):
            (folder / "run" / name).unlink(missing_ok=True)

    def predict(folder):
        return ["predict", folder / "run", data, "-o", folder / "predictions.csv"]

    return [
        Case("train, then resume", 30, train, resume),
        Case("train --folds, given again", 10, folds, folds),
        Case("prepare", 20, prepare, prepare),
        Case("phantom", 12, phantom, phantom),
        Case("phantom, by several processes", 3, drawn_by_several, drawn_by_several),
        Case("audit", 10, audit, audit),
        Case("predict", 15, predict, predict, undecided),
    ]


class Bench:
    "A folder with the data that all kills share, and one that each of them has anew."

    def __init__(
        self,
        folder: Path,  # a new one
    ):
        self.folder, self.data, self.known = folder, folder / "data", {}
        make_phantom(self.data, studies=40, seed=1, size=96, workers=1)

    def trained(self) -> Path:
        "A finished run on the data."
        run = self.folder / "trained"
        if not run.exists():
            how = ["--size", 32, "--epochs", 1, "--bs", 16, "--workers", 1, "--ci", "none"]
            work = mura("train", self.data, *how, "--out", run, cache=self.folder / "cache")
            told = Child(work, self.folder / "aside").wait()
            if told.fault:
                raise SystemExit(f"no run to predict with: {told.err}")
        return run

    def fresh(self, case: Case) -> Path:
        "The same empty folder for every kill, since some files name it."
        place = self.folder / "now"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        case.before(place)
        return place

    def begin(self, arguments: list, die_at: int | None = None, **options) -> Child:
        "A command as a process."
        place = self.folder / "now"
        return Child(mura(*arguments, cache=place / "cache"), place, die_at, **options)

    def go(self, arguments: list, **options) -> Ended:
        "A command, to its end."
        return self.begin(arguments, **options).wait()

    def undisturbed(self, case: Case) -> tuple[dict, Ended]:
        "What the command leaves when nobody kills it, made once and made sure of by a second time."
        if case.name not in self.known:
            place = self.fresh(case)
            told = self.go(case.start(place))
            wanted = outcome(place, _lasting(told.out))
            if told.fault or torn(place):
                raise SystemExit(f"{case.name}, undisturbed: {told.fault} {torn(place)}\n{told.err}")
            self.known[case.name] = wanted, told
        return self.known[case.name]

    def attack(self, case: Case, rng: np.random.Generator, by_step: bool) -> dict:
        "One kill, and what came of it."
        wanted, calm = self.undisturbed(case)
        place = self.fresh(case)
        step = int(rng.integers(1, calm.steps + 1)) if by_step else None
        moment = float(rng.uniform(0, calm.seconds))
        child = self.begin(case.start(place), step)
        if step is None:
            child.kill_after(moment)
        told = child.wait()
        where = f"before step {step} of {calm.steps}" if step else f"after {moment:.2f} of {calm.seconds:.2f} s"
        found = {"command": case.name, "moment": where, "killed": told.code == -9, "wrong": []}
        if not found["killed"]:
            found["wrong"] = [told.fault] if told.fault else []
            return found
        wrong = torn(place) + [f"{len(told.left)} of its processes live on"] * bool(told.left)
        arguments = case.again(place)
        again = self.go(arguments) if arguments else calm
        wrong += [f"given again: {again.fault}"] if again.fault else []
        wrong += torn(place)
        # A training that is taken up says fewer epochs, a store that goes on decodes fewer files.
        got = outcome(place, _lasting(again.out))
        found["wrong"] = wrong + ([] if again.fault else differences(got, wanted))
        return found


def _lasting(out: str) -> str:
    "What a command prints, without the lines that tell how much there was to do."
    # Scores are compared as files: a run that was whole when it was killed is not scored again.
    told = [] if "Always normal" in out or "was finished before" in out else out.splitlines()
    return "\n".join(line for line in told if not line.startswith("decoded "))


def plan(all_cases: list[Case], kills: int) -> list[Case]:
    "Which command each kill is for: by their shares, each at least once, well mixed."
    total = sum(c.share for c in all_cases)
    each = [(i + 0.5) * total / (kills * c.share) for c in all_cases for i in range(kills)]
    names = [c for c in all_cases for _ in range(kills)]
    return [names[i] for i in np.argsort(each, kind="stable")[:kills]]


def summary(found: list[dict], seconds: float) -> list[str]:
    "The kills by command, as lines of text."
    lines = [f"{'command':30s} kills   at a moment   before a step   something wrong"]
    for name in dict.fromkeys(f["command"] for f in found):
        mine = [f for f in found if f["command"] == name and f["killed"]]
        stepped = sum("step" in f["moment"] for f in mine)
        wrong = sum(bool(f["wrong"]) for f in mine)
        lines.append(f"{name:30s} {len(mine):5d}   {len(mine) - stepped:11d}   {stepped:13d}   {wrong:15d}")
    killed = [f for f in found if f["killed"]]
    lines.append(f"{'all':30s} {len(killed):5d}; {sum(bool(f['wrong']) for f in found)} with something wrong")
    return [*lines, *(f"{f['command']}, killed {f['moment']}: {w}" for f in found for w in f["wrong"])]


def main() -> int:  # exit code: 1 where anything was lost, torn, left over or hanging
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--only", help="of these commands alone, such as prepare,phantom")
    parser.add_argument("--log", type=Path, help="a line a kill; the same call again goes on there")
    parser.add_argument("--out", type=Path, help="file for the table")
    told = parser.parse_args()
    began, found = time.monotonic(), []
    if told.log and told.log.exists():
        found = [json.loads(line) for line in told.log.read_text().splitlines() if line.endswith("}")]
        found = [f for f in found if f["seed"] == told.seed]
    with tempfile.TemporaryDirectory(prefix="mura-faults-") as folder:
        bench = Bench(Path(folder))
        known = [c for c in cases(bench) if not told.only or c.name.startswith(tuple(told.only.split(",")))]
        for k, case in enumerate(plan(known, told.kills)):
            if any(f["k"] == k and (f["killed"] or f["wrong"]) for f in found):
                continue
            for attempt in range(20):  # a moment may come after the end
                rng = np.random.default_rng([told.seed, k, attempt])
                # By the count of this command's kills, so that each is attacked in both ways.
                one = bench.attack(case, rng, by_step=bool(sum(f["command"] == case.name for f in found) % 2))
                if one["killed"] or one["wrong"]:
                    break
            found.append(one | {"k": k, "seed": told.seed})
            print(f"{k + 1}/{told.kills} {case.name}, {one['moment']}: {one['wrong'] or 'well'}", file=sys.stderr)
            if told.log:
                with open(told.log, "a") as f:
                    f.write(json.dumps(found[-1]) + "\n")
    lines = [f"{told.kills} kills, seed {told.seed}", *summary(found, time.monotonic() - began)]
    print(*lines, sep="\n")
    if told.out:
        told.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return int(any(f["wrong"] for f in found))


if __name__ == "__main__":
    sys.exit(main())
