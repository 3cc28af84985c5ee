"""Files that are cut, twisted or nonsense, by the thousand: each is read, or refused in the words that we promise.

`make soak-fuzz` tries 10,000. Half of them are real files with bytes flipped, cut, doubled or overwritten; tables and
settings are also made up by Hypothesis, and states of a training invented, their checksums right. A reader may give a
result, an `InputError`, a `BadImage` or (a training that an invented state is taken up by) a `TrainingError`. Anything
else is a fault, and its input is kept: another error, a crash of the interpreter, ten seconds of computing, 1.5 GB.
"""

import argparse
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ |= {k: "1" for k in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}  # no threads before we fork
os.environ |= {"MPLBACKEND": "Agg", "HF_HUB_OFFLINE": "1"}

import hypothesis
import numpy as np
import pandas as pd
import torch
import yaml
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from invented import begin_run, go_on, invent_state
from PIL import Image
from safetensors.torch import save
from torch import nn

from mura_fastai.data.loose import input_images
from mura_fastai.data.phantom import make_phantom
from mura_fastai.data.pixels import MAX_PIXELS, read_grey
from mura_fastai.data.sources import read_images
from mura_fastai.data.store import Store, build_store
from mura_fastai.data.store_files import read_store
from mura_fastai.errors import BadImage, InputError, TrainingError
from mura_fastai.models.weights import fill
from mura_fastai.results.calibrate import Decision, read_decision, write_decision
from mura_fastai.results.competition import read_competition
from mura_fastai.results.experiment import train
from mura_fastai.results.tables import evaluate_file
from mura_fastai.training.plans import read_repeats
from mura_fastai.training.repeats import is_finished
from mura_fastai.training.resume import resume_run
from mura_fastai.training.runs import load_run, read_settings
from mura_fastai.training.state import state_file
from mura_fastai.training.tables import read_table

PATIENCE, MEMORY = 10, 1.5e9  # seconds of computing and bytes of one input
CLEAN = (InputError, BadImage, TrainingError)


@dataclass
class Kind:
    "Files of one kind: where a twisted one is put, and what then reads it."

    share: int  # of a hundred inputs
    file: Path  # a real one; a twisted one takes its place
    read: Callable[[Path], object]
    made_up: st.SearchStrategy | None = None  # of bytes; real ones are twisted where there is none
    mend: Callable[[bytes], bytes] | None = None  # of every other twisted one: checksums, lengths
    invent: Callable[[bytes, np.random.Generator], bytes] | None = None  # instead of twisting, three times in four


# ---------------------------------------------------------------- twisting


def twist(
    data: bytes,  # a real file
    rng: np.random.Generator,
) -> bytes:
    "One to four injuries."
    out = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        at = int(rng.integers(0, len(out) + 1))
        # Most of what a reader decides on stands at the beginning.
        at = min(at, int(rng.integers(0, 200))) if rng.random() < 0.5 else at
        span = int(rng.integers(1, 1 + max(1, min(64, len(out)))))
        how = rng.integers(0, 7)
        if how == 0:
            del out[at:]
        elif how == 1 and at < len(out):
            out[at] ^= 1 << int(rng.integers(0, 8))
        elif how == 2:
            out[at : at + span] = rng.integers(0, 256, span, dtype=np.uint8).tobytes()
        elif how == 3:
            out[at : at + span] = bytes([rng.choice([0, 255, 127, 128, 32, 10, 34])]) * span
        elif how == 4:
            del out[at : at + span]
        elif how == 5:
            out[at:at] = out[at : at + span] * int(rng.integers(1, 4))
        else:
            number = rng.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1, 50_000, 65_535])
            out[at : at + 4] = int(number).to_bytes(4, rng.choice(["big", "little"]))
    return bytes(out)


def mend_png(data: bytes) -> bytes:
    "The checksums made right, so that more than they are tried."
    out, at = bytearray(data), 8
    while at + 12 <= len(out):
        end = at + 12 + int.from_bytes(out[at : at + 4])
        if end > len(out):
            break
        out[end - 4 : end] = zlib.crc32(out[at + 4 : end - 4]).to_bytes(4)
        at = end
    return bytes(out)


def mend_safetensors(data: bytes) -> bytes:
    "The length of the header made right."
    end = data.rfind(b"}") + 1
    return max(0, end - 8).to_bytes(8, "little") + data[8:]


# ---------------------------------------------------------------- made up

NASTY = ["", " ", "nan", "NA", "inf", "1e309", "-1", "0.5", "2", "1.0", "0x10", "٣", "9" * 400, "9" * 5000, '"',
         '""', "\0", "\r", "\n", "\r\n", ",", ";", "\t", "=cmd|' /C calc'!A0", "../../etc/passwd", "/etc/passwd", "~",
         "C:\\x", "<script>", "\ufeff", "\u202e", "é", "x" * 140_000, "%s", "None", "valid", "train"]  # fmt: skip
texts = st.sampled_from(NASTY) | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
numbers = st.integers() | st.sampled_from([0, -1, 10**9, 2**63, 10**400]) | st.floats()
values = st.recursive(
    st.none() | st.booleans() | numbers | texts | st.dates(),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(texts | st.integers(), v, max_size=3),
    max_leaves=6,
)
SNIPPETS = [
    "!!python/object/apply:os.system ['true']", "!!python/name:os.system", "a: &a [*a]", "? [1, 2]\n: 3",
    "- a", "format: 1", "format: 99", "a: 2024-13-45", "a: !!int ''", "a: !!float x", "a: !!binary '*'", "a: 1:99:99",
    "a: !!timestamp x", "a: !!set {b}", "a: !!omap [b]", "<<: 3", "a: !!null b", "--- a\n--- b", "%YAML 9.9\n---\na: 1",
    "[" * 3000, "{a: " * 3000, "a: 0b", "a: 0x_", "a: ._", "a: +_", "a: " + "9" * 5000, "a: \x01", "&a a: *b", "`",
    "0: &a0 [1]\n" + "".join(f"{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 11)) + "format: *a10",
    "0: &a0 {k: 1}\n" + "".join(f"{i}: &a{i} {{<<: [{','.join([f'*a{i - 1}'] * 10)}]}}\n" for i in range(1, 11)),
]  # fmt: skip


@st.composite
def tables(draw, real: bytes):
    "A real CSV with cells, rows and columns exchanged, lost, doubled or filled with what nobody expects."
    rows = [line.split(",") for line in real.decode().splitlines()][:30]
    for _ in range(draw(st.integers(1, 4))):
        i = draw(st.integers(0, max(len(rows) - 1, 0)))
        how = draw(st.sampled_from(["cell", "cell", "cell", "lose", "double", "short", "long", "column", "swap"]))
        if not rows or not rows[i]:
            continue
        j = draw(st.integers(0, len(rows[i]) - 1))
        if how == "cell":
            rows[i][j] = draw(texts)
        elif how == "lose":
            del rows[i]
        elif how == "double":
            rows.insert(i, list(rows[i]))
        elif how == "short":
            del rows[i][j]
        elif how == "long":
            rows[i].append(draw(texts))
        elif how == "column":
            value = draw(texts)
            rows = [row[:j] + [value] + row[j + 1 :] for row in rows]
        else:
            rows = [row[::-1] for row in rows]
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    start = draw(st.sampled_from(["", "", "\ufeff", "\n", "#"]))
    return (start + end.join(map(",".join, rows)) + draw(st.sampled_from([end, ""]))).encode(errors="replace")


@st.composite
def settings(draw, real: bytes):
    "A real file of settings with values of all kinds in other values' place, or YAML that is none."
    if draw(st.integers(0, 9)) == 0:
        return draw(st.sampled_from(SNIPPETS)).encode()
    table = yaml.safe_load(real)
    for _ in range(draw(st.integers(1, 3))):
        key = draw(st.sampled_from([*table]) if table else texts)
        within = table[key] if isinstance(table.get(key), dict) and table[key] and draw(st.booleans()) else table
        key = key if within is table else draw(st.sampled_from([*within]))
        if draw(st.integers(0, 5)) == 0:
            within.pop(key, None)
        else:
            within[key] = draw(values)
    return yaml.safe_dump(table, allow_unicode=True).encode()


# ---------------------------------------------------------------- readers


def small_net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 1))


def _picture(file: Path):
    a = read_grey(file)
    assert a.dtype == np.uint8 and a.ndim == 2 and a.size <= MAX_PIXELS


def _decision(file: Path):
    decision = read_decision(file.parent)
    preds = pd.DataFrame({"path": ["a"], "study": ["s"], "split": ["valid"], "region": ["XR_HAND"], "patient": ["p"],
                          "view": [1], "label": [1], "p_abnormal": [0.7]})  # fmt: skip
    assert decision.apply(preds)["p_abnormal"].between(0, 1).all()


def _store(file: Path):
    if read_store(file.parent) is not None:
        store = Store(file.parent)
        assert store.gather(np.arange(len(store))).dtype == torch.uint8


def _settings(file: Path):
    read_settings(file.parent)
    is_finished(file.parent)
    load_run(file.parent, num_workers=1)


def _repeats(file: Path):
    for repeat in read_repeats(file.parent)[1]:
        is_finished(file.parent / repeat.name)


def make_files(
    folder: Path,  # a new one
):
    "Real files of every kind that we read."
    root, rng = folder / "MURA-tiny", np.random.default_rng(0)
    images = make_phantom(root, studies=12, seed=1, size=96, workers=1)
    run, _ = train(root, folder / "run", size=32, epochs=1, bs=4, num_workers=1, ci=None)
    begin_run(images, folder / "begun")
    resume_run(shutil.copytree(folder / "begun", folder / "ended"))
    grey = rng.integers(0, 256, (40, 48), dtype=np.uint8)
    pictures = {"grey.png": ("L", {}), "palette.png": ("P", {}), "alpha.png": ("RGBA", {}), "a.jpg": ("L", {}),
                "progressive.jpg": ("RGB", {"progressive": True}), "cmyk.jpg": ("CMYK", {})}  # fmt: skip
    for name, (mode, options) in pictures.items():
        Image.fromarray(grey).convert(mode).save(folder / name, **options)
    Image.fromarray(grey.astype(np.uint16) * 99).save(folder / "deep.png")
    (folder / "w.safetensors").write_bytes(save(small_net().state_dict()))
    torch.save(small_net().state_dict(), folder / "w.pth")
    write_decision(Decision(0.4, 1.2, regions={"XR_HAND": {"threshold": 0.3, "temperature": 1.0}}), run)
    build_store(images[:6], folder / "store", 32)
    (folder / "repeats").mkdir()
    told = dict(format=1, folds=None, seeds=[0, 1], settings={"arch": "mura_cnn"}, data={"split_seed": 0})
    (folder / "repeats" / "repeats.yaml").write_text(yaml.safe_dump(told))
    studies = images.study.unique()
    (folder / "answers.csv").write_text("".join(f"MURA/valid/{s}_positive/,1\n" for s in studies))
    own = images[["path", "label", "patient", "split", "region"]][:8]
    own.assign(path=[os.path.relpath(p, folder) for p in own.path]).to_csv(folder / "own.csv", index=False)
    (folder / "list.csv").write_text("".join(f"{os.path.relpath(p, folder)}\n" for p in images.path[:8]))


def kinds_of(
    folder: Path,  # filled by `make_files`
) -> dict[str, Kind]:
    "What is twisted, and who reads it."
    root, run = folder / "MURA-tiny", folder / "run"

    def weights(file):
        fill(small_net(), file)

    def png(name, share):
        return Kind(share, folder / name, _picture, mend=mend_png)

    def made(share, file, read, strategy):
        return Kind(share, file, read, strategy((file).read_bytes()))

    def both(name, share, file, read, strategy):
        return {
            f"{name}, bytes": Kind(share, file, read),
            f"{name}, made up": made(share, file, read, strategy),
        }

    def of_root(file):
        read_images(root, "mura", max_bad=1.0, decode=False)

    return {
        "PNG, grey": png("grey.png", 6), "PNG, 16 bits": png("deep.png", 4), "PNG, palette": png("palette.png", 4),
        "PNG, transparent": png("alpha.png", 4),
        "JPEG, grey": Kind(6, folder / "a.jpg", _picture), "JPEG, CMYK": Kind(4, folder / "cmyk.jpg", _picture),
        "JPEG, progressive": Kind(4, folder / "progressive.jpg", _picture),
        "safetensors": Kind(10, folder / "w.safetensors", weights, mend=mend_safetensors),
        "PyTorch's weights": Kind(3, folder / "w.pth", weights),
        "the store's index": Kind(7, folder / "store" / "index.csv", _store),
        "the store's index, made up": made(3, folder / "store" / "index.csv", _store, tables),
        "the store's array": Kind(5, folder / "store" / "pixels.npy", _store),
        **both("decision.yaml", 4, run / "decision.yaml", _decision, settings),
        **both("repeats.yaml", 4, folder / "repeats" / "repeats.yaml", _repeats, settings),
        **both("settings.yaml", 2, run / "settings.yaml", _settings, settings),
        **both("images.csv of a run", 2, run / "images.csv", read_table, tables),
        **both("predictions.csv", 2, run / "predictions.csv", lambda f: evaluate_file(f, ci=None), tables),
        **both("a competition's file", 2, folder / "answers.csv", read_competition, tables),
        **both("a table of one's own", 1, folder / "own.csv", lambda f: read_images(f, "csv", max_bad=1.0), tables),
        **both("a list of images", 2, folder / "list.csv", lambda f: input_images([f]), tables),
        **both("MURA's labels", 1, root / "train_labeled_studies.csv", of_root, tables),
        **both("MURA's paths", 1, root / "valid_image_paths.csv", of_root, tables),
        "a training's state": Kind(6, state_file(folder / "begun"), go_on, invent=invent_state),
        "a state after the end": Kind(2, state_file(folder / "ended"), go_on, invent=invent_state),
    }  # fmt: skip


# ---------------------------------------------------------------- trying


class Hang(BaseException):
    "An input took longer than it may."


def _try(kind: Kind, data: bytes, told: Callable[[str, bytes], None]) -> str:
    "Read one input: `read`, `refused`, or what is wrong with how it ended."
    kind.file.write_bytes(data)
    signal.setitimer(signal.ITIMER_PROF, PATIENCE)  # what it computes; others may want the cores
    signal.alarm(60 * PATIENCE)
    try:
        kind.read(kind.file)
        return "read"
    except CLEAN as e:
        if not str(e).strip() or len(str(e)) > 2000:
            told(f"{type(e).__name__} that says {len(str(e))} characters", data)
            return "fault"
        return "refused"
    except Hang:
        told(f"more than {PATIENCE} s", data)
    except Exception as e:
        where = traceback.extract_tb(e.__traceback__)
        own = [f for f in where if "mura_fastai" in f.filename] or where
        told(f"{type(e).__name__}: {str(e)[:150]} ({Path(own[-1].filename).name}:{own[-1].lineno})", data)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
    return "fault"


def _inputs(kind: Kind, count: int, seed: int, use: Callable[[bytes], None]):
    "So many inputs of a kind, one after the other."
    real = kind.file.read_bytes()
    if kind.made_up is None:
        rng = np.random.default_rng(seed)
        for i in range(count):
            data = kind.invent(real, rng) if kind.invent and i % 4 else twist(real, rng)
            use(kind.mend(data) if kind.mend and i % 2 else data)
        return

    @hypothesis.seed(seed)
    @hypothesis.settings(max_examples=count, deadline=None, database=None, suppress_health_check=[*HealthCheck])
    @given(kind.made_up)
    def each(data):
        use(data)

    each()


def fuzz(
    name: str,  # of the kind
    kind: Kind,
    count: int,  # inputs
    seed: int,
    keep: Path,  # folder for the inputs that found a fault
) -> tuple[Counter, list[str]]:  # how many were read, refused, faults; what was wrong, each once
    "A kind in a process of its own, with little memory."
    if count < 1:
        return Counter(), []
    log, current = keep / "log", keep / "current"
    log.write_text("")
    pid = os.fork()
    if pid == 0:
        code, seen = 1, set()
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)  # readers warn and tell what they left out
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (int(used + MEMORY),) * 2)

            def late(*_):
                raise Hang

            signal.signal(signal.SIGALRM, late)
            signal.signal(signal.SIGPROF, late)
            with open(log, "a", buffering=1) as out:

                def told(what, data):
                    short = what.split(":")[0] + what.rpartition("(")[2]
                    if short not in seen:
                        seen.add(short)
                        place = keep / f"{name.replace(' ', '-')}-{len(seen)}"
                        place.write_bytes(data)
                        out.write(json.dumps(["fault", f"{name}: {what}", str(place)]) + "\n")

                def use(data):
                    current.write_bytes(data)
                    out.write(json.dumps([_try(kind, data, told)]) + "\n")

                _inputs(kind, count, seed, use)
            code = 0
        except BaseException:
            with open(log, "a") as out:
                out.write(json.dumps(["fault", f"{name}: {traceback.format_exc()[-300:]}", str(current)]) + "\n")
        finally:
            os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    counts, wrong = Counter(x[0] for x in lines if len(x) == 1), [f"{x[1]}; see {x[2]}" for x in lines if len(x) == 3]
    if status < 0:
        shutil.copy(current, keep / f"{name.replace(' ', '-')}-crash")
        wrong.append(f"{name}: the interpreter ended by signal {-status} at input {sum(counts.values()) + 1}")
        counts["fault"] += 1
    return counts, wrong


def main() -> int:  # exit code: 1 where an input did anything but be read or refused
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=10_000, help="about how many in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="kinds whose names begin so, with commas between them")
    parser.add_argument("--keep", type=Path, help="folder for inputs that found a fault")
    parser.add_argument("--out", type=Path, help="file for the table")
    told = parser.parse_args()
    keep, faults, total = told.keep or Path(tempfile.mkdtemp(prefix="mura-fuzz-")), [], Counter()
    keep.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="mura-fuzz-files-") as folder:
        os.environ["MURA_CACHE"] = str(Path(folder) / "cache")
        pid = os.fork()  # training makes threads, and a process that forks should have none
        if pid == 0:
            try:
                make_files(Path(folder))
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        if os.waitpid(pid, 0)[1]:
            raise SystemExit("the real files could not be made")
        kinds = kinds_of(Path(folder))
        shares, began = sum(k.share for k in kinds.values()), time.monotonic()
        lines = [f"{'files':32s} inputs    read  refused  faults"]
        for i, (name, kind) in enumerate(kinds.items()):
            if not name.startswith(tuple(told.only.split(","))):
                continue
            real = kind.file.read_bytes()
            counts, wrong = fuzz(name, kind, -(-told.inputs * kind.share // shares), told.seed + i, keep)
            kind.file.write_bytes(real)
            faults += wrong
            total += counts
            lines.append(_line(name, counts))
            print(lines[-1], *wrong, sep="\n", file=sys.stderr, flush=True)
    lines = [f"{sum(total.values())} inputs, seed {told.seed}", *lines, _line("all", total), *faults]
    print(*lines, f"{time.monotonic() - began:.0f} s", sep="\n")
    if told.out:
        told.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return int(bool(faults or total["fault"]))


def _line(name: str, counts: Counter) -> str:
    numbers = f"{counts['read']:7d} {counts['refused']:8d} {counts['fault']:7d}"
    return f"{name:32s} {sum(counts.values()):6d} {numbers}"


if __name__ == "__main__":
    sys.exit(main())
