"""The standard figures of a run, in the order in which they are read."""

from pathlib import Path

import matplotlib.pyplot as plt

from mura_fastai.files import replacing
from mura_fastai.results.interpret import MuraInterpretation

# file name -> what it answers; how it is drawn, of an interpretation, with so many top losses and a kind of heat maps;
# whether it holds pictures of the data
FIGURES = {
    "confusion_matrix.png": (
        "What is abnormal, and what is called so?",
        lambda interp, k, heat: interp.plot_confusion_matrix(),
        False,
    ),
    "scores.png": ("How well is each region read?", lambda interp, k, heat: interp.plot_scores(), False),
    "confusion_by_region.png": (
        "Which errors does each region have?",
        lambda interp, k, heat: interp.plot_confusion_matrix(by_region=True),
        False,
    ),
    "regions.png": ("Which regions are confused most?", lambda interp, k, heat: interp.plot_regions(), False),
    "roc.png": ("What does finding more cost?", lambda interp, k, heat: interp.plot_roc(), False),
    "precision_recall.png": (
        "How many alarms are right?",
        lambda interp, k, heat: interp.plot_precision_recall(),
        False,
    ),
    "thresholds.png": ("What would another threshold change?", lambda interp, k, heat: interp.plot_thresholds(), False),
    "probabilities.png": (
        "How far are normal and abnormal apart?",
        lambda interp, k, heat: interp.plot_probabilities(),
        False,
    ),
    "calibration.png": (
        "Can a probability be taken at its word?",
        lambda interp, k, heat: interp.plot_calibration(),
        False,
    ),
    "top_losses_studies.png": (
        "Which studies is the model most wrong about?",
        lambda interp, k, heat: interp.plot_top_losses(-(-k // 2), level="study", heat=heat),
        True,
    ),
    "top_losses_images.png": (
        "Which images is the model most wrong about?",
        lambda interp, k, heat: interp.plot_top_losses(k, heat=heat),
        True,
    ),
    "history.png": (
        "Was the training long enough, and not too long?",
        lambda interp, k, heat: interp.plot_history(),
        False,
    ),
}


def known_figures(
    interp: MuraInterpretation,
) -> list[str]:  # names of `FIGURES`
    "Those that can be drawn: pictures need the files' paths, the history needs the run."
    has_history = interp.run is not None and (Path(interp.run) / "history.csv").exists()
    return [
        name
        for name, (_, _, holds_pictures) in FIGURES.items()
        if (name != "history.png" or has_history) and (not holds_pictures or "path" in interp.preds)
    ]


def figures(
    interp: MuraInterpretation,
    folder: str | Path,  # where the PNG files go; made where it does not exist
    k: int = 9,  # top losses: images to show, and half as many studies
    dpi: int = 110,
    heat: str | None = None,  # hirescam, gradcam or cam: top losses with heat maps, which need the network
) -> list[Path]:  # the files written
    "Write the standard figures of a run. Those of top losses hold pictures of the data, and say so."
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name in known_figures(interp):
        _, draw, _ = FIGURES[name]
        fig = draw(interp, k, heat)
        with replacing(folder / name) as aside:
            fig.savefig(aside, dpi=dpi)
        plt.close(fig)  # where it is shown, pyplot would keep it
        paths.append(folder / name)
    return paths
