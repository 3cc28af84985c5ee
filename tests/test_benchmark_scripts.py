"""The scripts in benchmarks/: the command that they print is what was run, and OUT is taken for nothing else."""

import json
import shlex
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def scripts(monkeypatch):
    "ablations, regions, telling and views_on_phantom, as they import each other."
    monkeypatch.syspath_prepend(BENCHMARKS)
    import ablations
    import regions
    import telling
    import views_on_phantom

    return dict(ablations=ablations, regions=regions, telling=telling, views_on_phantom=views_on_phantom)


def parser_of(scripts, name):
    "A script's command line."
    if name == "views_on_phantom":
        return scripts[name].parser()
    nets = list(scripts["ablations"].NETS) if name == "ablations" else None
    return scripts["ablations"].parser(scripts[name].__doc__, nets)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ablations", "--seeds 0 1 2"),
        ("ablations", "--only 'no contrast, max-pools, every place' 'head: generalised mean' --size 64 --lr 1e-05"),
        ("ablations", "--report --only mura_cnn --seeds 3"),
        ("regions", "--epochs 3 --bs 16 --seeds 7"),
        ("views_on_phantom", "--arms max images --phantom-seed 4 --kind fracture --studies 200 --seeds 1 2"),
        ("views_on_phantom", ""),
    ],
)
def test_the_command_that_is_printed_parses_to_what_was_run(scripts, name, words):
    parser = parser_of(scripts, name)
    places = ["/some where/data", "/an/out"]
    args = parser.parse_args([*places, *shlex.split(words)])
    told = scripts["telling"].command(f"{name}.py", parser, args)
    python, script, data, out, *rest = shlex.split(told)
    assert (python, script, out) == ("python", f"benchmarks/{name}.py", "OUT") and data.isupper()
    assert vars(parser.parse_args([*places, *rest])) == vars(args)


def test_every_network_has_its_own_file_and_those_of_earlier_names_are_found(scripts, tmp_path):
    ablations = scripts["ablations"]
    files = [ablations.file_of(tmp_path, name, 2).name for name in ablations.NETS]
    assert len(set(files)) == len(files)
    assert {"mura_cnn-2.csv", "these_three_at_once-2.csv", "head_every_place_no_peak-2.csv"} <= set(files)


def test_a_folder_is_trained_into_with_one_choice_of_settings_and_reported_with_its_own(scripts, tmp_path):
    telling, parser = scripts["telling"], parser_of(scripts, "regions")
    names = scripts["ablations"].SETTINGS

    def settled(*words):
        args = parser.parse_args(["data", str(tmp_path / "out"), *words])
        return args, telling.settle(args, names)

    with pytest.raises(SystemExit, match="settings.json"):
        settled("--report")
    _, kept = settled("--size", "64")
    assert settled("--size", "64")[1] == kept and kept["machine"][0].startswith("machine")
    with pytest.raises(SystemExit, match="name another folder"):
        settled("--size", "96")
    # What another commit trained may be told of, with its settings, and is not trained on.
    file = tmp_path / "out" / "settings.json"
    file.write_text(json.dumps({k: kept[k] for k in names} | {"commit": "0123456789abcdef"}))
    with pytest.raises(SystemExit, match="0123456789abcdef"):
        settled("--size", "64")
    before = file.read_bytes()
    args, kept = settled("--report")
    assert args.size == 64 and file.read_bytes() == before
    assert "commit 0123456789" in telling.made_with(args, kept) and "without training" in telling.made_with(args, kept)
    for seed in (10, 2):
        (tmp_path / "out" / f"common-{seed}.csv").touch()
    assert telling.which_seeds(args, "common") == [2, 10]


def test_a_difference_is_held_against_what_other_seeds_change(scripts):
    from mura_fastai.results.compare import compare

    rng, telling = np.random.default_rng(0), scripts["telling"]
    n = 400
    label = rng.integers(0, 2, n)
    study = pd.DataFrame(
        dict(study=[f"s{i}" for i in range(n)], patient=[f"p{i}" for i in range(n)], region="hand", split="valid")
    )
    noise = rng.normal(size=n)

    def arm(skill):
        return study.assign(label=label, p_abnormal=1 / (1 + np.exp(-(skill * (2 * label - 1) + noise))))

    base = [arm(s) for s in (0.5, 0.51, 0.52)]
    steady, shaky = [arm(s) for s in (0.8, 0.81, 0.82)], [arm(s) for s in (0.3, 0.8, 1.3)]
    table = compare(base, steady, shaky, base[:1], names=["base", "steady", "shaky", "one"], metrics=("auroc",))
    told = telling.differences(table)
    assert told["steady"].endswith("  yes") and told["shaky"].endswith("  no")
    assert "and more than what other seeds change" in telling.sentences(table).replace("\n  ", " ")
    alone = compare(base[:1], steady[:1], names=["base", "steady"], metrics=("auroc",))
    assert telling.differences(alone)["steady"].endswith("n/a"), "one training each says nothing of seeds"


@pytest.mark.slow
def test_the_first_line_of_a_run_does_it_again(scripts, tmp_path, monkeypatch, capsys):
    "Pooling views, trained for a moment: its own first line finds all that it left, and nothing else would."
    places = {"PHANTOM": str(tmp_path / "phantoms"), "OUT": str(tmp_path / "out")}
    asked = "--seeds 4 --arms mean max --phantom-seed 7 --studies 120 --train 2 --tune 1 --size 32 --epochs 1 --bs 4"

    def run(*words):
        monkeypatch.setattr(sys, "argv", [*words])
        scripts["views_on_phantom"].main()
        return capsys.readouterr().out.splitlines()

    first = run("benchmarks/views_on_phantom.py", *places.values(), *shlex.split(asked))
    made = {f: f.stat().st_mtime_ns for f in (tmp_path / "out").glob("*.csv")}
    assert len(made) == 2 and "phantom of seed 7 (settings were found on seed 0)" in first[1]
    python, *words = shlex.split(first[0])
    again = run(*(places.get(word, word) for word in words))
    assert again[0] == first[0] and again[-6:] == first[-6:]
    assert {f: f.stat().st_mtime_ns for f in (tmp_path / "out").glob("*.csv")} == made
