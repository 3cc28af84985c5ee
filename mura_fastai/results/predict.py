"""A Learner or a finished run, and images: out comes the predictions table, which every score and picture reads."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from fastai.learner import Learner

from mura_fastai.data.gather import flag_unreadable, mura_study
from mura_fastai.data.inspection import limit_bad
from mura_fastai.data.store import Store
from mura_fastai.errors import InputError
from mura_fastai.models.views import StudyNet
from mura_fastai.results.measures import cross_entropy
from mura_fastai.text import one_of
from mura_fastai.training.runs import read_settings
from mura_fastai.training.tables import own_images


def predict_images(
    learn: Learner,  # from `mura_learner` or `load_run`
    images: pd.DataFrame,  # an images table; labels may be missing
    bs: int | None = None,  # images (or studies) a batch; the Learner's where not given
    num_workers: int | None = None,  # decoding threads; the number of cores unless set
    max_bad: float = 1.0,  # share of unreadable files that is left out without an error
    store: Store | None = None,  # decoded images of the Learner's size; without one files are decoded
) -> pd.DataFrame:  # the predictions table: `images` with `n_unreadable`, `p_abnormal`, `loss` where a label is known
    """The probability of abnormal for every image, in the table's order.

    Files are decoded, each once, by threads while the network works on those before. The probability is meant at the
    share of abnormal images that its region had in training: the weights of the default loss, which make a network
    answer as if half of all were abnormal, are taken back (`learn.get_preds` leaves them in). Unreadable files get no
    row and no probability: they are named in `attrs["skipped"]`, and a study of which none is left once more. How many
    views of its study could not be used stands in each row's `n_unreadable`.

    A network that pools views (`StudyNet`) answers for the study: each of its rows carries that one probability, so
    that their mean is it again, and `attention`, the view's weight in it; those of a study sum to 1.
    """
    skipped, total, images = images.attrs.get("skipped", []), len(images), images.reset_index(drop=True)
    whole, bad, probs, attention = images, [], torch.empty(0, dtype=torch.float64), None
    if store is not None:
        if store.size != learn.dls.size:
            raise InputError(
                f"{store.path}: a store of {store.size} px, not of {learn.dls.size}; build one of that size"
            )
        reasons = {s["path"]: s["reason"] for s in store.skipped}
        bad = [{"path": p, "reason": reasons[p]} for p in images.path if p in reasons]
        images = images[~images.path.isin(list(reasons))].reset_index(drop=True)
    if len(images):
        bs = bs or learn.dls.bs
        dl = learn.dls.test_dl(images, bs=bs, store=store, resident=None, skip_bad=True, threads=num_workers)
        probs, attention = _probabilities(learn, dl)
        bad += dl.bad
    limit_bad(bad, total, max_bad)
    if len(images):
        order = np.array(dl.order, np.int64)
        back = order.argsort()  # studies come with their views side by side, wherever they stand in the table
        images, probs = images.iloc[order[back]].reset_index(drop=True), probs[back]
    if len(images) and hasattr(learn.loss_func, "unweigh"):
        codes = learn.dls.vocab[0].o2i
        probs = learn.loss_func.unweigh(probs, torch.tensor([codes[r] for r in images.region]))
    lost = whole[whole.path.isin([b["path"] for b in bad])]
    lost = dict(zip(lost.path, lost.study, strict=True))
    if "n_unreadable" not in whole:  # a table of `mura_images` names the files that are not there, and counts none
        missing = {s["path"]: mura_study(s["path"]) for s in skipped if s["reason"] == "missing"}
        lost |= {path: study for path, study in missing.items() if study in set(whole.study)}
        images = images.assign(n_unreadable=0)
    images, gone = flag_unreadable(images, lost)
    preds = images.assign(p_abnormal=probs.numpy())
    if attention is not None:
        preds["attention"] = attention[back].numpy()
    preds["loss"] = cross_entropy(preds.label, preds.p_abnormal)
    preds.attrs["skipped"] = [*skipped, *bad, *gone]
    return preds


def name_region(
    images: pd.DataFrame,  # an images table
    runs: list[str | Path],  # folders of runs that will predict it
    region: str | None = None,  # of the images that carry none
) -> pd.DataFrame:  # the table
    """Give images without a region the one that is named. Where a network was told it and some lack it, stderr says so.

    Raises `InputError` for a region that one of the runs was not trained on."""
    for run in runs:
        settings = read_settings(run)
        table = own_images(run, settings.get("data"))
        known = sorted(set(table.region[table.split.isin(("train", "tune"))]))
        if region is not None and region not in known:
            raise InputError(f"{run}: was trained on no region {region!r}; it knows {', '.join(known)} (--region)")
        new = ~images.region.isin(known)
        lacking = new & images.region.isin(("", "all"))
        if region is not None:
            new &= ~lacking
        if settings.get("region_aware") and len(known) > 1 and new.any():
            n = one_of(int(new.sum()), "image has no region", "images have no region")
            told = "this network was told it in training, and takes their mean here"
            print(f"{n} that {run} knows; {told}: --region says which ({', '.join(known)})", file=sys.stderr)
    if region is not None:
        images = images.assign(region=images.region.where(~images.region.isin(("", "all")), region))
    return images


def _probabilities(learn: Learner, dl) -> tuple[torch.Tensor, torch.Tensor | None]:
    "The network's answers, batch by batch, and the views' weights where it pools them; read off the device at the end."
    net = learn.model.to(dl.device).eval()
    if isinstance(net, StudyNet):
        return _of_views(learn, net, dl)
    with torch.inference_mode():
        # Plain tensors: fastai's pass through Python at every operation.
        inputs = ([x.as_subclass(torch.Tensor) for x in batch[:2]] for batch in dl)
        answers = [learn.loss_func.activation(net(*x)) for x in inputs]
    return (torch.cat(answers).cpu().double() if answers else torch.empty(0, dtype=torch.float64)), None


def _of_views(learn: Learner, net: StudyNet, dl) -> tuple[torch.Tensor, torch.Tensor]:
    "Each view's study's probability, and the view's weight; in the order of the loader's rows."
    answers = []
    net.keep_attention = True
    try:
        with torch.inference_mode():
            for batch in dl:
                x, region, mask = (batch[i].as_subclass(torch.Tensor) for i in (0, 1, 3))
                p = learn.loss_func.activation(net(x, region, mask))
                answers.append([t.cpu() for t in (p[:, None].expand_as(mask), net.attention, mask)])
    finally:
        net.keep_attention, net.attention = False, None
    p, weights = (torch.cat([torch.empty(0), *(a[i][a[2]].float() for a in answers)]).double() for i in (0, 1))
    return p, weights
