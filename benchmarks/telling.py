"""What the scripts here have in common: what OUT was trained with, the command that was run, differences in words."""

import argparse
import json
import shlex
import sys
import textwrap
from math import isnan
from pathlib import Path

import pandas as pd
from fastai.torch_core import default_device

from mura_fastai.bench.measure import hardware
from mura_fastai.bench.report import machine_lines
from mura_fastai.provenance import checkout
from mura_fastai.results.verdicts import compare_sentences, comparisons, seed_noise

PLACES = {"data": "FRACATLAS", "phantom": "PHANTOM", "out": "OUT"}  # what is printed instead of folders
SEEDS = [0, 1, 2]
COLUMNS = f"{'difference, 95 % interval':28}{'by seeds':>8}  more"
LEGEND = (
    "by seeds: how far the means of so many trainings lie apart by their seeds alone, in 95 of 100 such pairs;\n"
    "more: whether the difference is larger. The interval is about other patients, with these trainings as they are."
)


def common_options(parser: argparse.ArgumentParser):
    "Options that every script here has."
    parser.add_argument("out", type=Path, help="folder for predictions")
    parser.add_argument(
        "--seeds", type=int, nargs="+", help="of weights and order; 0 1 2, or with --report what lies there"
    )
    parser.add_argument(
        "--report", action="store_true", help="train nothing: tell what lies in OUT, whatever commit made it"
    )


def command(
    script: str,  # its file's name
    parser: argparse.ArgumentParser,
    args: argparse.Namespace,  # as it was run
) -> str:
    "The command that does this again: places by name, then every option that is not its default."
    words = ["python", f"benchmarks/{script}"]
    words += [PLACES[name] for name in vars(args) if name in PLACES]
    for name, value in vars(args).items():
        if name in PLACES or value == parser.get_default(name):
            continue
        values = [] if value is True else value if isinstance(value, list) else [value]
        words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return shlex.join(words)


def settle(
    args: argparse.Namespace,
    names: tuple,  # of the options that change what is trained
) -> dict:  # what settings.json keeps: these options, commit and machine
    """What lies in OUT was trained alike, or nothing of it may be taken for it: else the script ends here.

    With `--report` the options become those that settings.json names, and the commit is not compared.
    """
    file = args.out / "settings.json"
    kept = json.loads(file.read_text()) if file.exists() else None
    if args.report:
        if kept is None or not set(names) <= set(kept):
            sys.exit(f"{file}: not there, or without {', '.join(names)}; give a folder that this script trained into")
        vars(args).update({name: kept[name] for name in names})
        return kept
    now = {name: vars(args)[name] for name in names} | {"commit": checkout()["commit"]}
    if kept and {name: kept.get(name) for name in now} != now:
        sys.exit(f"{args.out}: trained with {file.read_text()}, now {json.dumps(now)}; name another folder")
    kept = kept or now | {"machine": machine_lines(hardware(default_device()))}
    args.out.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(kept))
    return kept


def which_seeds(
    args: argparse.Namespace,
    base: str,  # the arm that is always there, by the name of its files
) -> list[int]:
    "The seeds to train or, with `--report`, those that lie in OUT."
    if not args.report:
        return args.seeds or SEEDS
    there = sorted(int(file.stem.rpartition("-")[2]) for file in args.out.glob(f"{base}-[0-9]*.csv"))
    found = [seed for seed in there if args.seeds is None or seed in args.seeds]
    return found or sys.exit(f"{args.out}: no predictions of {base} with such a seed")


def made_with(
    args: argparse.Namespace,
    kept: dict,  # from `settle`
) -> str:
    "Machine, versions and commit that trained; with `--report` also the commit that tells of it."
    commit = kept["commit"] or "no checkout"
    lines = kept.get("machine", [f"trained   at commit {commit[:10]}, where OUT names no machine"])
    if args.report:
        lines = [*lines, f"reported  without training, at commit {(checkout()['commit'] or 'no checkout')[:10]}"]
    return "\n".join(lines)


def difference(
    row: pd.Series,  # of one comparison
    seeds: tuple[int, int],  # number of trainings of the first and of the other arm
) -> str:
    "A difference of AUROC, what other seeds change, and whether it is more than that: under `COLUMNS`."
    diff, lo, hi = (row[f"auroc_diff{end}"] for end in ("", "_lo", "_hi"))
    noise = seed_noise(row, "auroc", seeds)
    told = "     n/a" if isnan(noise) else f"{noise:8.3f}  {'yes' if abs(diff) > noise else 'no'}"
    return f"{f'{diff:+.3f} [{lo:+.3f}, {hi:+.3f}]':28}{told}"


def differences(
    table: pd.DataFrame,  # from `compare`
    region: str = "overall",
) -> dict[str, str]:
    "The same of every arm of a comparison."
    seeds, first = table.attrs["seeds"], table.attrs["names"][0]
    return {
        name: difference(part.loc[region], (seeds[first], seeds[name])) for name, part in comparisons(table).items()
    }


def adjusted(
    others: list[str],  # the arms that are held against the first one
) -> str:
    "By which p the sentences speak."
    many = f", adjusted by Holm's method for {len(others)} such questions" if len(others) > 1 else ""
    return f"Below, p is that of one question alone; what the set shows goes by p{many}."


def sentences(
    table: pd.DataFrame,  # from `compare`
    regions: bool = False,  # also in how many regions there is a difference
) -> str:
    "What `mura compare` says of it."
    lines = [line for line in compare_sentences(table) if regions or line.startswith("overall")]
    return "\n".join(textwrap.fill(line, 118, subsequent_indent="  ") for line in lines)
