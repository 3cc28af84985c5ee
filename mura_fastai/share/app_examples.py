"""Studies to try the page on: drawn by a program when they are asked for, in memory, with the truth about them."""

import io
from dataclasses import dataclass

import numpy as np

from mura_fastai.data.phantom_views import REGIONS, Study, draw_study

SEED = 8_501_117  # a phantom that nobody trains on
SIZE = 448  # px of the longer side
NUMBERS = 1_000_000  # studies of each region


@dataclass(frozen=True)
class Example:
    "One invented study."

    region: str  # as the phantom calls it, such as XR_WRIST
    files: list[tuple[str, bytes]]  # name and PNG of each view
    label: int
    findings: list[tuple[str, list[int]]]  # what was drawn, and the numbers of the views that show it

    def truth(self) -> str:
        "What was drawn, in words."
        if not self.label:
            return "It was drawn as normal: no finding in any view."
        told = [
            f"{what}, seen in view{'s' * (len(views) > 1)} {' and '.join(map(str, views))}"
            for what, views in self.findings
        ]
        return f"It was drawn as abnormal: {'; '.join(told)}."


def draw_example(
    region: str,  # a key of `phantom_views.REGIONS`
    number: int,  # below `NUMBERS`; the same number, the same study
) -> Example:
    "Draw a study; whether it is normal or abnormal lies in its number."
    place = list(REGIONS).index(region)
    label = int(np.random.default_rng([SEED, place, number]).random() < 0.5)
    study = Study(number * len(REGIONS) + place, "valid", region, number, 1, label)
    files, views = [], draw_study(SEED, study, SIZE)
    for k, (picture, _) in enumerate(views, 1):
        out = io.BytesIO()
        picture.save(out, "PNG", compress_level=1)
        files.append((f"{study.key}/image{k}.png", out.getvalue()))
    findings = []
    for i, (finding, _) in enumerate(views[0][1]):
        form = "" if finding.form == "joint" else f" ({finding.form})"
        shown = [k for k, (_, where) in enumerate(views, 1) if where[i][1] is not None]
        findings.append((finding.kind + form, shown))
    return Example(region, files, label, findings)


def match_regions(
    regions: list[str],  # those that a run knows
) -> dict[str, str]:  # the phantom's name -> the run's; where none matches, all of the phantom's -> ""
    "Which examples a run can be shown: XR_HAND is the hand of a data set that calls it so."
    plain = {r.lower().removeprefix("xr_"): r for r in regions}
    found = {name: plain.get(name.lower().removeprefix("xr_")) for name in REGIONS}
    known = {name: region for name, region in found.items() if region}
    return known or dict.fromkeys(("XR_WRIST", "XR_HAND", "XR_SHOULDER"), "")
