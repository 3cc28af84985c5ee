"""The frontier in words: its lesson in one sentence, where it comes from, and the table."""

from itertools import zip_longest
from math import nan

from mura_fastai.bench.report import machine_lines, number, table
from mura_fastai.text import one_line, short, with_interval

HOW_COUNTED = "multiply-adds: convolutions, matrix products and attention of one image, one channel, forward"
# Measured on one thread: `LocalContrast` and `SmoothMaxPool` take .37 of a forward pass at 320 px, .39 at 128.
NOT_COUNTED = (
    "left out: pooling, averaging, normalising, activation (contrast and pools: over a third of mura_cnn's CPU time)"
)


def headline(
    document: dict,  # of `frontier`
) -> str:
    "What is to be learned: the best run, what it has over the next cheaper one, and whether these studies can tell."
    front, gain = [r for r in document["runs"] if r["on_front"]], document["gain"]
    if not front:
        return "No AUROC: the studies are all of one class"
    if gain:
        best, over = (one_line(gain[k], 24) for k in ("best", "over"))
        more = f"{signed(gain['auroc_diff'])} over {over}, the next cheaper on the front"
        told = f"{best} has the highest AUROC: {more}, for {gain['times']:.3g} x the multiply-adds"
        if gain["lo"] is None:
            return told
        chance = ", which may be chance" if gain["lo"] <= 0 <= gain["hi"] else ""
        return f"{told} (95 % interval {signed(gain['lo'])} to {signed(gain['hi'])}{chance})"
    best = front[0]
    told = (
        f"AUROC {short(best['scores']['overall']['auroc'])} for {number(best['multiply_adds'] / 1e9)} G multiply-adds"
    )
    if len(document["runs"]) == 1:
        return f"{one_line(best['name'], 24)}: {told}"
    return f"{one_line(best['name'], 24)} has the highest AUROC, and no run needs fewer multiply-adds: {told}"


def signed(
    x: float,
) -> str:
    "+.042, -.010."
    told = short(x)
    return told if told.startswith("-") else f"+{told}"


def data_line(
    document: dict,  # of `frontier`
) -> str:  # such as FracAtlas, 619 studies (116 abnormal) of 590 patients, 5 folds out of fold, 3 seeds
    "What the scores are of."
    d, seeds = document["data"], sorted({r["seeds"] for r in document["runs"]})
    rows = f"{d['folds']} folds out of fold" if d["folds"] else "valid rows"
    count = " to ".join(str(s) for s in dict.fromkeys((seeds[0], seeds[-1])))
    # FracAtlas tells no patients: what is drawn and split together there are look-alikes.
    groups = "groups of look-alikes" if d["source"] == "fracatlas" else "patients"
    studies = f"{d['studies']:,} studies ({d['abnormal']:,} abnormal) of {d['patients']:,} {groups}"
    return f"{d['name']}, {studies}, {rows}, {count} {'seed' if count == '1' else 'seeds'}"


def measured_line(
    document: dict,  # of `frontier`
) -> str:
    "At which sizes, and how the intervals were had."
    sizes = sorted({r["size"] for r in document["runs"]})
    px = " to ".join(str(s) for s in dict.fromkeys((sizes[0], sizes[-1])))
    return f"Networks at {px} px; bootstrap of patients, {document['settings']['n_boot']} draws"


def speed_lines(
    document: dict,  # of `frontier`
) -> list[str]:
    "How images a second were measured, and on what."
    s, m = document["settings"], document["hardware"]
    if not s["rounds"]:
        return ["not measured"]
    rounds = "one round" if s["rounds"] == 1 else f"medians of {s['rounds']} rounds in turns"
    return [
        f"images/s on {m['gpu'] or m['cpu']}: {rounds}, at least {s['seconds']} s each; the network alone, on one",
        f"batch of {s['bs']} of random bytes that stays there; training in each run's precision, prediction in fp32",
    ]


def scored(
    run: dict,  # of the document
    metric: str,  # auroc or average_precision
    region: str = "overall",
) -> str:
    "A score with its interval, and how far seeds differ."
    row = run["scores"][region]
    x, lo, hi, sd = (nan if row.get(k) is None else row[k] for k in _ends(metric))
    return with_interval(x, lo, hi) + ("" if sd != sd else f" ± {short(sd)}")


def _ends(metric: str) -> tuple[str, ...]:
    return metric, f"{metric}_lo", f"{metric}_hi", f"{metric}_seed_sd"


def text(
    document: dict,  # of `frontier`
) -> str:
    "The lesson, where it comes from, a row a run from the cheapest to the dearest, and regions that were asked for."
    runs = sorted(document["runs"], key=lambda r: r["multiply_adds"])
    rows = [
        ["", "run", "network", "weights", "M params", "G mult-adds", "train/s", "predict/s", "precision", "seeds",
         "AUROC", "average precision"]
    ]  # fmt: skip
    for r in runs:
        speeds = [number(r[k]["median"]) if r[k] else "n/a" for k in ("training", "prediction")]
        rows.append(
            ["*" if r["on_front"] else "", one_line(r["name"], 28), f"{one_line(r['network'], 30)}, {r['size']} px",
             one_line(r["weights"], 48), number(r["parameters"] / 1e6), number(r["multiply_adds"] / 1e9), *speeds,
             r["precision"], str(r["seeds"]), scored(r, "auroc"), scored(r, "average_precision")]
        )  # fmt: skip
    lines = [
        f"{document['headline']}.",
        "",
        *machine_lines(document["hardware"]),
        f"data      {data_line(document)}",
        f"scores    {measured_line(document)}, 95 % intervals in [ ]",
        f"cost      {HOW_COUNTED}",
        f"{'':10}{NOT_COUNTED}",
        *(f"{name:10}{line}" for name, line in zip_longest(["speed"], speed_lines(document), fillvalue="")),
        "",
        *table(rows, right=(4, 5, 6, 7, 9)),
        "  *: on the front, by point estimates: no other run has as high an AUROC for fewer multiply-adds.",
    ]
    if any(r["seeds"] > 1 for r in runs):
        lines.append("  ±: standard deviation between the seeds, which is no part of the interval.")
    for region in document["settings"]["regions"]:
        counts = runs[0]["scores"][region]
        lines += ["", f"{one_line(region)}: {counts['n']:,} studies ({counts['n_abnormal']:,} abnormal)"]
        cells = [
            [one_line(r["name"], 28), *(scored(r, m, region) for m in ("auroc", "average_precision"))] for r in runs
        ]
        lines += table([["run", "AUROC", "average precision"], *cells], right=())
    return "\n".join(lines) + "\n"
