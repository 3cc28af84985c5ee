"""Which figures of a run stand in which section, and how they are to be read."""

from pathlib import Path

from fastcore.xml import Div

from mura_fastai.errors import InputError
from mura_fastai.results.figures import FIGURES, known_figures
from mura_fastai.share.charts import chart
from mura_fastai.share.report_facts import Facts
from mura_fastai.share.report_parts import note

# Shown in a better way here: as tables and cards that follow screen, theme and paper.
OWN = {"confusion_matrix", "confusion_by_region", "scores"}
# figure -> its section (the first where none is said), and how it is read by who sees such a thing for the first time
HOW = {
    "regions": ("errors", "How often the network errs, region by region: of all, of the abnormal, of the normal."),
    "roc": ("errors", "Each point is a threshold: how many of the abnormal are found (up) for how many false alarms "
    "(right). The further a curve bends into the upper left corner, the better; the dotted diagonal is guessing."),
    "precision_recall": ("errors", "Of those called abnormal, how many are (up), while more of the abnormal are found "
    "(right). Where few studies are abnormal this says more than the ROC curve does."),
    "thresholds": ("errors", "What every other threshold would give; the dotted line is the one in use."),
    "calibration": ("trust", "Of studies with a given probability, how many are abnormal? On the diagonal a "
    "probability means what it says; below it the network claims too much, above it too little."),
    "probabilities": ("trust", "Abnormal studies upwards, normal ones downwards, by the probability that they got. The "
    "further apart the two, the better; coloured is what is on the wrong side of the threshold."),
    "history": ("training", "Losses above, scores below, epoch by epoch. Where the loss on train falls and that on "
    "tune rises, the network learns by heart."),
}  # fmt: skip
# With several trainings there is no one threshold, nor one rule that chose it.
OF_ONE = {"thresholds"}


def plots_of(
    facts: Facts,
) -> dict[str, list]:  # "errors", "trust" and "training" -> figures of the page
    "Every standard figure that holds no picture, each drawn from the run's tables alone."
    out = {"errors": [], "trust": [], "training": []}
    for file in known_figures(facts.interp):
        question, draw, holds_pictures = FIGURES[file]
        name = Path(file).stem
        if holds_pictures or name in OWN or (facts.plan and name in OF_ONE):
            continue
        where, how = HOW.get(name, ("errors", question))
        try:
            shown = chart(draw(facts.interp, 0, None), f"{facts.key}{name.replace('_', '-')}", how, not facts.plan)
        except InputError as e:
            shown = note(f"{question} No figure: {facts.tell(e)}")
        out[where].append(shown)
    return {where: [Div(*shown, cls="plots")] if shown else [] for where, shown in out.items()}
