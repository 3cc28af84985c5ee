"""What was measured, for people and for programs: goals met or not, text tables, and the three files of a result."""

import json
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from mura_fastai.bench.plot import draw
from mura_fastai.files import replacing, write_text
from mura_fastai.text import aligned

# Section, job, case, what, at least: from the second on as the loaders' and trainings' records name them.
_FASTER = (
    ("uint8", "ours, resident", "gathering bytes, resident, times stock fastai with all workers", 25.0),
    ("uint8", "ours, from disk (warm)", "gathering bytes, from disk (warm), times stock fastai with all workers", 18.0),
    ("float", "ours, resident", "gathering floats, resident, times stock fastai with all workers", 8.0),
)
_SHARE, _COST, _MEMORY = 0.97, 1.10, 200.0
JOB_NAMES = {
    "uint8": "batches of bytes", "float": "batches of normalised floats", "augmented": "augmented, normalised floats"
}  # fmt: skip
GOALS_ARE_FOR = "the loaders' goals are meant for two cores and 320 px"


def goals(
    sections: dict,  # of the document
) -> list[dict]:  # what, at_least or at_most, median, min, max, met (None where it was not measured)
    "The goals of what was measured, beside what was found."
    found = []
    if "loaders" in sections:
        for job, case, what, least in _FASTER:
            found.append(_goal(what, case_of(sections["loaders"][job], case)["ratio"], at_least=least))
    for arch, job in sections.get("training", {}).items():
        share = case_of(job, "ours, mura_learner")["ratio"]
        found.append(_goal(f"training {arch}, share of the ceiling", share, at_least=_SHARE))
    if "growth" in sections:
        growth = sections["growth"]
        sizes = [r["n"] for r in growth["sizes"]]
        span = f"from {min(sizes):,} to {max(sizes):,} images" if sizes else "with the number of images"
        held = growth["memory_mb"]
        found.append(_goal(f"cost of an image {span}, dearest over cheapest", growth["cost"], at_most=_COST))
        held = None if held is None else dict(median=held, min=held, max=held)
        found.append(_goal(f"memory beyond the mapped array {span}, MB more", held, at_most=_MEMORY))
    return found


def _goal(what: str, value: dict | None, at_least: float | None = None, at_most: float | None = None) -> dict:
    value = value or dict(median=None, min=None, max=None)
    met = None
    if value["median"] is not None:
        met = value["median"] >= at_least if at_most is None else value["median"] <= at_most
    return dict(what=what, at_least=at_least, at_most=at_most, **value, met=met)


def case_of(
    job: dict,  # reference and cases
    name: str,
) -> dict:
    "The record of a case."
    return next(c for c in job["cases"] if c["name"] == name)


def table(
    rows: list[list[str]],  # the first one is the header
    right: Sequence[int] | None = None,  # columns that stand to the right; all but the first and the last
) -> list[str]:
    "Columns side by side, figures to the right."
    return ["  " + line for line in aligned(rows, range(1, len(rows[0]) - 1) if right is None else right)]


def number(
    x: float | None,
) -> str:
    "Three digits, or all before the point."
    if x is None:
        return "n/a"
    return f"{x:,.0f}" if abs(x) >= 100 else f"{x:.3g}"


def between(
    value: dict | None,  # min and max
) -> str:
    return "" if not value or value["min"] is None else f"{number(value['min'])} .. {number(value['max'])}"


def job_table(
    job: dict,  # reference and cases
    versus: str,  # what the ratio is called
) -> list[str]:
    "The cases of one job."
    rows = [["", "images/s", "min .. max", versus, "min .. max", "first batch", "notes"]]
    for c in job["cases"]:
        ratio, start = c["ratio"], c["startup"]
        more = [f"{k} {v:.3g}".replace("_", " ") for k, v in c["more"].items() if v is not None]
        set_to = [f"{k} {v}" for k, v in c["settings"].items() if k != "tried"]
        rows.append(
            [c["name"], number(c["median"]), between(c), number(ratio["median"]) if ratio else "n/a", between(ratio),
             "" if start is None else f"{start:.2g} s", "; ".join([n for n in (c["note"], *set_to, *more) if n])]
        )  # fmt: skip
    return table(rows)


def text(
    document: dict,  # of `bench`
) -> str:
    "All tables, with the machine, the data and the settings above them and the goals below."
    sections, lines = document["sections"], _head(document)
    if "loaders" in sections:
        section = sections["loaders"]
        for job, words in JOB_NAMES.items():
            lines += ["", f"LOADERS, {words}", *job_table(section[job], "x stock")]
        built = section["store"]
        once = f"  The store is built once: {built['images']} images in {built['seconds']:.1f} s"
        lines += [f"{once}, {built['images_per_s']:.0f} images/s. Cold: {section['cold']}."]
    if "augmentation" in sections:
        lines += [
            "",
            "AUGMENTATION, one batch of bytes on the device",
            *job_table(sections["augmentation"], "x fastai"),
        ]
    for arch, job in sections.get("training", {}).items():
        lines += ["", f"TRAINING {arch}", *job_table(job, "of ceiling")]
    if "prediction" in sections:
        section = sections["prediction"]
        lines += ["", f"PREDICTION with {section['arch']}", *job_table(section, "x loop")]
        share = section["share_of_possible"]
        lines.append(f"  ours: {share['median']:.2f} ({between(share)}) of what decoding and forward passes allow")
    if "growth" in sections:
        lines += ["", "GROWTH, shuffled epochs of bytes from the memory map", *_growth_table(sections["growth"])]
    if document["goals"]:
        lines += ["", f"GOALS ({GOALS_ARE_FOR})", *_goal_table(document["goals"])]
    return "\n".join(lines) + "\n"


def _head(document: dict) -> list[str]:
    "Machine, data and settings, in a few lines."
    m, d, s = (document[k] for k in ("hardware", "data", "settings"))
    formats = ", ".join(f"{n} {f}" for f, n in d["formats"].items())
    medians = f"longer side {d['median_side']:.0f} px, {d['median_kb']} kB"
    phantom = " (phantom data: speed depends on the files, yours will differ)" if d["kind"] == "phantom" else ""
    quick = ["QUICK: these settings show that it runs, not how fast anything is."] if s["quick"] else []
    return [
        f"{document['name']}, {m['date']}",
        *quick,
        *machine_lines(m),
        f"data      {d['name']}: {formats}; medians: {medians}{phantom}",
        f"settings  {s['size']} px, batches of {s['bs']} (loaders) and {s['train_bs']} (training, prediction), "
        f"{s['rounds']} rounds in turns, at least {s['seconds']} s a measurement ({s['train_seconds']} s of training); "
        "medians and range over rounds",
    ]


def machine_lines(
    machine: dict,  # from `hardware`
) -> list[str]:
    "Machine and versions, a line each."
    m, v = machine, machine["versions"]
    gpu = f", {m['gpu']} {m['gpu_memory_gb']} GB" if m["gpu"] else ""
    commit = (m["commit"] or "no checkout")[:10] + (" with changes" if m["changed"] else "")
    names = ("torch", "torchvision", "fastai", "timm", "pillow")
    return [
        f"machine   {m['cpu']}, {m['cores']} cores, {m['ram_gb']} GB{gpu}; {m['os']}; load {m['load']} before",
        f"versions  python {v['python']}, {', '.join(f'{n} {v[n]}' for n in names)}; commit {commit}",
    ]


def _growth_table(section: dict) -> list[str]:
    rows = [
        ["images", "us an image", "min .. max", "steady", "first batch", "loaders made in", "own memory", "with map"]
    ]
    for r in section["sizes"]:
        mb = [f"{x:.0f} MB" if x is not None else "n/a" for x in (r["anonymous_mb"], r["resident_mb"])]
        first = f"{r['first_batch_ms']['median']:.1f} ms"
        rows.append(
            [f"{r['n']:,}", number(r["us_an_image"]["median"]), between(r["us_an_image"]),
             number(r["us_steady"]["median"]), first, f"{r['loaders_s']:.2f} s", *mb]
        )  # fmt: skip
    return [*table(rows), *(f"  left out: {line}" for line in section["left_out"])]


def _goal_table(found: list[dict]) -> list[str]:
    rows = [["", "goal", "measured", "min .. max", ""]]
    words = {True: "met", False: "NOT MET", None: "not measured"}
    for g in found:
        goal = f">= {number(g['at_least'])}" if g["at_most"] is None else f"<= {number(g['at_most'])}"
        rows.append([g["what"], goal, number(g["median"]), between(g), words[g["met"]]])
    return table(rows)


def write_report(
    document: dict,  # of `bench`
    out: Path,  # without a suffix
) -> list[Path]:  # OUT.json, OUT.txt, OUT.png
    "The three files of a result."
    return write_files(document, text(document), draw(document), out)


def write_files(
    document: dict,
    told: str,  # the document as text
    figure: Figure,  # and as a picture
    out: Path,  # without a suffix
) -> list[Path]:  # OUT.json, OUT.txt, OUT.png
    "The three files of any result."
    files = files_of(out)
    write_text(files[0], json.dumps(document, indent=1, allow_nan=False) + "\n")
    write_text(files[1], told)
    with replacing(files[2]) as aside:
        figure.savefig(aside, dpi=110)
    return files


def files_of(
    out: Path,  # without a suffix
) -> list[Path]:  # OUT.json, OUT.txt, OUT.png
    "Where the files of a result lie."
    return [out.with_name(out.name + suffix) for suffix in (".json", ".txt", ".png")]
