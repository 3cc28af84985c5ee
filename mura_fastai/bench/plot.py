"""One picture of a result: a row a section, a bar a case with its range over the rounds, ours in colour."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

OURS, OTHERS, TOP = "#0b6e99", "#a9b0b6", "#5d646b"
TITLES = {"uint8": "bytes", "float": "normalised floats", "augmented": "augmented floats"}


def draw(
    document: dict,  # of `bench`
) -> Figure:
    "Rows of panels, as many as sections were measured. Whoever asked for it closes it."
    rows = [row for row in (_loaders, _training, _rest, _growth) if row(document, None)]
    heights = [row(document, None) for row in rows]
    fig = Figure(figsize=(14, sum(heights) + 0.9), layout="constrained")
    parts = fig.subfigures(len(rows), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, row in zip(parts, rows, strict=True):
        row(document, part)
    machine, data, s = document["hardware"], document["data"], document["settings"]
    phantom = ", phantom data" if data["kind"] == "phantom" else f", {data['name']}"
    quick = "QUICK RUN, no measure of speed: " if s["quick"] else ""
    where = f"{machine['gpu'] or machine['cpu']}, {machine['cores']} cores"
    told = f"{quick}{where}, {s['size']} px{phantom}; median and range of {s['rounds']} rounds"
    fig.suptitle(told, fontsize=12, x=0.01, ha="left")
    return fig


def bars(
    ax: plt.Axes,
    job: dict,  # reference and cases
    log: bool = False,  # a logarithmic axis
    percent: bool = False,  # ratios as shares of the reference
    names: list[str] | None = None,  # the cases to show, from the top; all of them
):
    "A bar a case: its median and range, and how many times the reference it is."
    cases = {c["name"]: c for c in job["cases"]}
    names = names or list(cases)
    measured = [c["median"] for c in cases.values() if c["median"]]
    left = min(measured) / 3 if log else 0
    for y, name in enumerate(names):
        case = cases.get(name)
        if case is None or case["median"] is None:
            ax.text(0.02, y, "not part of this job" if case is None else case["note"], fontsize=8, color=TOP,
                    va="center", transform=ax.get_yaxis_transform())  # fmt: skip
            continue
        colour = OURS if name.startswith("ours") else TOP if name.startswith("ceiling") else OTHERS
        ax.barh(y, case["median"] - left, left=left, color=colour, height=0.7)
        ax.plot([case["min"], case["max"]], [y, y], color="black", lw=1.4, solid_capstyle="butt")
        ratio, speed = case["ratio"]["median"], case["median"]
        times = f"{ratio:.0%}" if percent else f"{ratio:.2g} x" if ratio < 10 else f"{ratio:.0f} x"
        label = f"{speed:,.0f}/s   {times}" if speed >= 10 else f"{speed:.2g}/s   {times}"
        ax.annotate(label, (case["max"], y), (4, 0), textcoords="offset points", va="center", fontsize=8)
    ax.set_yticks(range(len(names)), names, fontsize=9)
    ax.invert_yaxis()
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_xlabel("images a second", fontsize=9)
    if log:
        ax.set_xscale("log")
        ax.set_xlim(left, max(measured) * 12)
    else:
        ax.set_xlim(0, max(c["max"] for c in cases.values() if c["median"]) * 1.45)


def _ratio(job: dict, start: str) -> float | None:
    "The highest ratio of the cases whose name begins so."
    ratios = [c["ratio"]["median"] for c in job["cases"] if c["name"].startswith(start) and c["ratio"]]
    return max(ratios, default=None)


def _loaders(document: dict, fig) -> float:  # inches of height; 0 where it was not measured
    section = document["sections"].get("loaders")
    if not section:
        return 0
    names = [c["name"] for c in section["uint8"]["cases"]]
    if fig is not None:
        axs = fig.subplots(1, len(TITLES), sharey=True)
        for ax, (job, title) in zip(axs, TITLES.items(), strict=True):
            bars(ax, section[job], log=True, names=names)
            ax.set_title(title, fontsize=10)
        for ax in axs[1:]:
            ax.tick_params(labelleft=False)
        axs[0].set_ylim(len(names) - 0.4, -0.6)
        told = [f"{_ratio(section[job], 'ours'):.3g} x for {title}" for job, title in TITLES.items()]
        stock = section["uint8"]["reference"]
        fig.suptitle(f"Loaders: ours at its best against {stock}: {', '.join(told)}", fontsize=11, fontweight="bold")
    return 0.31 * len(names) + 1.3


def _training(document: dict, fig) -> float:
    section = document["sections"].get("training")
    if not section:
        return 0
    names = [c["name"] for c in next(iter(section.values()))["cases"]]
    if fig is not None:
        axs = fig.subplots(1, len(section), squeeze=False)[0]
        for ax, (arch, job) in zip(axs, section.items(), strict=True):
            bars(ax, job, percent=True)
            ax.set_title(arch, fontsize=10)
            ax.set_yticks(range(len(names)), [n.partition(":")[0] for n in names])
        for ax in axs[1:]:
            ax.tick_params(labelleft=False)
        shares = {w: [_ratio(job, w) for job in section.values()] for w in ("ours", "stock")}
        told = {w: "/".join(f"{x:.0%}" for x in xs) for w, xs in shares.items()}
        fig.suptitle(
            f"Training: ours reaches {told['ours']} of what the device can do, stock fastai {told['stock']}",
            fontsize=11, fontweight="bold",
        )  # fmt: skip
    return 0.31 * len(names) + 1.3


def _rest(document: dict, fig) -> float:
    "Augmentation and prediction."
    found = {k: document["sections"][k] for k in ("augmentation", "prediction") if k in document["sections"]}
    if not found:
        return 0
    if fig is not None:
        axs = fig.subplots(1, len(found), squeeze=False)[0]
        for ax, (name, job) in zip(axs, found.items(), strict=True):
            bars(ax, job)
            best = _ratio(job, "ours")
            told = f"Augmentation alone: ours is {best:.3g} x as fast as fastai's"
            if name == "prediction":
                told = f"Prediction: a table is {best:.3g} x as fast as file by file ({job['arch']})"
            ax.set_title(told, fontsize=11, fontweight="bold")
    return 0.31 * max(len(job["cases"]) for job in found.values()) + 1.0


def _growth(document: dict, fig) -> float:
    section = document["sections"].get("growth")
    if not section or not section["sizes"]:
        return 0
    if fig is not None:
        sizes = section["sizes"]
        n = [r["n"] for r in sizes]
        cost, memory = fig.subplots(1, 2)
        medians = [r["us_an_image"]["median"] for r in sizes]
        spread = [[m - r["us_an_image"]["min"] for m, r in zip(medians, sizes, strict=True)],
                  [r["us_an_image"]["max"] - m for m, r in zip(medians, sizes, strict=True)]]  # fmt: skip
        cost.errorbar(n, medians, spread, color=OURS, marker="o", capsize=4, lw=2)
        cost.set_title("microseconds an image", fontsize=10)
        memory.plot(n, [r["anonymous_mb"] for r in sizes], color=OURS, marker="o", lw=2, label="its own")
        memory.plot(n, [r["resident_mb"] for r in sizes], color=OTHERS, marker="o", lw=2, label="with mapped pages")
        memory.set_title("memory of the process at its highest, MB", fontsize=10)
        memory.legend(frameon=False)
        for ax in (cost, memory):
            ax.set_xscale("log")
            ax.set_xticks(n, [f"{x:,}" for x in n])
            ax.minorticks_off()
            ax.set_ylim(0, ax.get_ylim()[1] * 1.15)
            ax.set_xlabel("images in the set", fontsize=9)
            ax.spines[["top", "right"]].set_visible(False)
        grows = section["cost"]["median"] - 1
        fig.suptitle(
            f"Growth: from {n[0]:,} to {n[-1]:,} images the cost of one changes by {grows:.0%}",
            fontsize=11, fontweight="bold",
        )  # fmt: skip
    return 3.2
