"""The bytes of one study in, its answer out: probability, decision, and a heat map of each view. No file is touched."""

import io
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from fastai.torch_core import TensorCategory, to_device
from PIL import Image

from mura_fastai.data.augment import TensorXray
from mura_fastai.data.gather import mura_study
from mura_fastai.data.pixels import decode_grey, pad_square
from mura_fastai.errors import BadImage, InputError
from mura_fastai.models.views import StudyNet
from mura_fastai.results.heatmaps import HeatMapper, heat_on, overlay
from mura_fastai.results.moments import Moment
from mura_fastai.share.app_record import read_record
from mura_fastai.training.runs import read_settings

FORMATS = ("PNG", "JPEG")  # two of Pillow's parsers are enough for a page that others may reach
SHOWN = 640  # px of the longer side of a picture in the page
MANY_SCANS = 24  # of a JPEG: usual ones have one to ten, and each costs a pass over all pixels
COLOURED = 10  # grey levels between the brightest and the darkest channel, in the mean: more is no film's tint
_REGION = re.compile(r"XR_[A-Z]+")


class Sent(NamedTuple):
    "One file as it was sent."

    name: str  # what the sender calls it, perhaps with folders; never opened
    data: bytes


@dataclass(frozen=True)
class View:
    "One readable image of a study."

    name: str
    shape: tuple[int, int]  # height and width of the file, pixels
    p_abnormal: float  # of this view alone, calibrated
    grey: np.ndarray  # uint8, the longer side at most `SHOWN`
    heat: np.ndarray | None  # uint8 x 3, the same with its heat map; None where the network gives none
    place: str  # where the map is hottest, in words; "" where nothing is hot
    notes: list[str] = field(default_factory=list)  # what is unusual about the picture


@dataclass(frozen=True)
class Answer:
    "What is said of one study."

    name: str  # for people
    region: str  # "" for one that nothing told
    known: bool  # whether the network was trained on that region
    p_abnormal: float  # pooled over the views, calibrated
    threshold: float  # abnormal above it
    abnormal: bool
    views: list[View]
    unreadable: list[BadImage]
    seconds: float


class Unreadable(ValueError):
    "No file of a study can be used."

    def __init__(self, faults: list[BadImage]):
        super().__init__("no image of this study can be read")
        self.faults = faults


def region_told(
    names: list[str],  # of the files, as they were sent
    regions: list[str],  # those that the network knows
) -> str | None:  # None where the names tell none, or different ones
    "The region that paths name: as MURA's folders do, XR_WRIST anywhere, or a folder called like one of the run's."
    plain, told = {r.lower(): r for r in regions}, set()
    for name in (n.replace("\\", "/") for n in names):
        study, found = mura_study(name), _REGION.search(name)
        folders = [plain[part.lower()] for part in name.split("/")[:-1] if part.lower() in plain]
        told.add(study.split("/")[0] if study else found[0] if found else folders[-1] if folders else None)
    return told.pop() if len(told) == 1 else None


def studies_told(
    names: list[str],  # of the files, as they were sent
) -> list[str]:  # XR_WRIST/patient11185/study1; none where no path has such folders
    "The studies that paths name, sorted."
    return sorted({mura_study(name.replace("\\", "/")) for name in names} - {None})


def study_name(
    names: list[str],  # of the files, as they were sent
) -> str:
    "What to call a study: MURA's name where the paths hold one, else its folder, else its first file."
    studies = studies_told(names)
    if len(studies) == 1:
        return studies[0]
    paths = [PurePosixPath(name.replace("\\", "/")) for name in names]
    folders = {p.parent.name for p in paths}
    return (folders.pop() if len(folders) == 1 else "") or paths[0].name or "study"


class LoadedRun:
    "A run, ready to answer. Several threads may ask; the network works on one study at a time."

    def __init__(
        self,
        run: str | Path,  # a run's folder
    ):
        self.settings, self.name = read_settings(run), Path(run).resolve().name
        now = Moment(run)
        self.learn, self.decision, self.record = now.learn, now.decision(), read_record(now)
        self.codes = self.learn.dls.vocab[0].o2i
        self.regions = [r for r in self.learn.dls.vocab[0] if r != "#na#"]
        self.why_no_heat = ""
        try:
            self.mapper = HeatMapper(self.learn)
        except InputError as e:
            self.mapper, self.why_no_heat = None, str(e)
        self.dl = self.learn.dls.valid
        self.dl.before_iter()  # transforms as for rows that are not trained on
        self.lock, self.decoders = threading.Lock(), ThreadPoolExecutor(2, "decode")
        size = self.settings["size"]
        self._network(np.zeros((1, size, size), np.uint8), "")  # the first pass is several times as slow as others

    def answer(
        self,
        files: list[Sent],  # of one study
        region: str,  # as the run calls it; another one counts as not trained on
    ) -> Answer:
        """Decode, predict, pool, calibrate and decide as `mura predict` does. `Unreadable` where no file is an image.

        A file that cannot be used is named and left out, and the others are scored."""
        began = time.perf_counter()
        decoded, views, squares, faults = list(self.decoders.map(self._decode, files)), [], [], []
        for sent, got in zip(files, decoded, strict=True):
            if isinstance(got, BadImage):
                faults.append(got)
                continue
            views.append((sent.name, *got[:3]))
            squares.append(got[3])
        if not views:
            raise Unreadable(faults)
        alone, maps, whole = self._network(np.stack(squares), region)
        p = alone
        if whole is not None:
            p = np.full(len(views), float(whole[0]))
            for (_, _, _, notes), share in zip(views, whole[1], strict=True):
                notes.append(f"attention {share:.0%} of what the network looked at in this study".replace("%", " %"))
        rows = dict(study="study", region=region, patient="", label=pd.NA, p_abnormal=p)
        study = self.decision.apply(pd.DataFrame(rows)).iloc[0]
        alone = self.decision.calibrated(alone, [region] * len(alone))
        top = max((float(m.max()) for m in maps if m is not None), default=0.0)
        shown = [_view(*view, *rest, top) for view, *rest in zip(views, alone, maps, strict=True)]
        return Answer(
            study_name([v.name for v in shown]), region, region in self.regions, float(study["p_abnormal"]),
            float(self.decision.thresholds([region])[0]), bool(study["abnormal"]), shown, faults,
            time.perf_counter() - began,
        )  # fmt: skip

    def _decode(self, sent: Sent):
        "Shape, picture to show, notes and padded square of one file; or what is wrong with it."
        try:
            if sent.data.startswith(b"\xff\xd8") and sent.data.count(b"\xff\xda") > MANY_SCANS:
                raise BadImage(sent.name, f"more than {MANY_SCANS} scans; save it as a plain JPEG or PNG")
            grey, mode = decode_grey(sent.data, sent.name, FORMATS)
        except BadImage as e:
            return e
        except MemoryError:
            return BadImage(sent.name, "this machine's memory is full; send fewer files, or smaller ones")
        size, notes = self.settings["size"], []
        if mode.startswith(("RGB", "P", "CMYK")) and _is_coloured(sent.data):
            notes.append("a colour picture; radiographs are grey, and the network is fed its grey values alone")
        if max(grey.shape) < size:
            notes.append(f"smaller than the {size} px that the network is fed: enlarged")
        return grey.shape, _shrunk(grey), notes, pad_square(grey, size)

    def _network(self, squares: np.ndarray, region: str) -> tuple[np.ndarray, list, tuple | None]:
        """n x size x size bytes to n probabilities and n heat maps (None without), in one pass.

        Of a network that pools views that is each view alone; then the study's probability and n weights come too."""
        code = torch.full((len(squares),), int(self.codes.get(region, 0)))
        mask = torch.ones((1, len(squares)), dtype=torch.bool)
        code, mask = code.as_subclass(TensorCategory), mask.as_subclass(TensorCategory)
        batch = (torch.from_numpy(squares)[:, None].as_subclass(TensorXray), code, code)
        loss, net, whole = self.learn.loss_func, self.learn.model, None
        batch = (mask, *batch) if isinstance(net, StudyNet) else batch
        with self.lock:
            batch = self.dl.after_batch(to_device(batch, self.dl.device))
            x, codes, _, *views = (t.as_subclass(torch.Tensor) for t in batch)
            if views:
                whole = self._whole(x, codes[:1], *views)
                x = x[0]
            if self.mapper is not None:
                logits, maps = self.mapper(x, codes)
            else:
                with torch.inference_mode():
                    logits, maps = net.to(x.device).eval()(x, codes), None
        p = loss.activation(logits).cpu().double()
        if hasattr(loss, "unweigh"):
            p = loss.unweigh(p, code)
            whole = whole and (loss.unweigh(whole[0], code[:1]), whole[1])
        return p.numpy(), [None] * len(p) if maps is None else list(maps.numpy()), whole

    def _whole(self, x: torch.Tensor, code: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, list[float]]:
        "The answer for a study, weighted as in training, and the weights of its views."
        net = self.learn.model.to(x.device).eval()
        net.keep_attention = True
        try:
            with torch.inference_mode():
                p = self.learn.loss_func.activation(net(x, code, mask)).cpu().double()
            return p, net.attention[0].tolist()
        finally:
            net.keep_attention, net.attention = False, None


def _shrunk(grey: np.ndarray) -> np.ndarray:
    "As large as the page shows it."
    h, w = grey.shape
    scale = SHOWN / max(h, w)
    if scale >= 1:
        return grey
    small = max(1, round(w * scale)), max(1, round(h * scale))
    return np.asarray(Image.fromarray(grey).resize(small, Image.Resampling.BILINEAR, reducing_gap=3.0))


def _is_coloured(data: bytes) -> bool:
    "Whether a file that was decoded before is more than grey or tinted."
    with Image.open(io.BytesIO(data), formats=FORMATS) as im:
        im.draft("RGB", (64, 64))
        small = np.asarray(im.convert("RGB").resize((64, 64), Image.Resampling.BILINEAR, reducing_gap=2.0), int)
    return float(np.ptp(small, -1).mean()) > COLOURED


def _view(name, shape, grey, notes, p, heat, top) -> View:
    "A view with its heat map; the views of a study share the value in full colour."
    if heat is None:
        return View(name, shape, float(p), grey, None, "", notes)
    return View(name, shape, float(p), grey, overlay(grey, heat, top), _place(heat, grey.shape, top), notes)


def _place(heat: np.ndarray, shape: tuple[int, int], top: float) -> str:
    "Where in the picture a map is hottest, for people who do not see it."
    on = heat_on(heat, shape)
    if top <= 0 or on.max() < 0.05 * top:
        return ""
    y, x = (v / n for v, n in zip(np.unravel_index(on.argmax(), on.shape), on.shape, strict=True))
    row, column = (names[min(int(3 * v), 2)] for v, names in ((y, ("upper", "", "lower")), (x, ("left", "", "right"))))
    words = " ".join(filter(None, (row, column)))
    return {"": "in the middle", "upper": "at the top", "lower": "at the bottom", "left": "on the left",
            "right": "on the right"}.get(words, f"in the {words}")  # fmt: skip
