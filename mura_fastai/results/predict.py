"""A Learner or a finished run, and images: out comes the predictions table, which every score and picture reads."""

import pandas as pd
import torch
from fastai.learner import Learner

from mura_fastai.data.pixels import leave_out_bad
from mura_fastai.results.metrics import cross_entropy


def predict_images(
    learn: Learner,  # from `mura_learner` or `load_run`
    images: pd.DataFrame,  # an images table; labels may be missing
    bs: int | None = None,  # images a batch; the Learner's where not given
    num_workers: int | None = None,  # decoding threads; the number of cores unless set
    max_bad: float = 1.0,  # share of unreadable files that is left out without an error
) -> pd.DataFrame:  # the predictions table: `images` with `p_abnormal`, and `loss` where the label is known
    """The probability of abnormal for every image, in the table's order.

    It is meant at the share of abnormal images that its region had in training: the weights of the default loss, which
    make a network answer as if half of all were abnormal, are taken back (`learn.get_preds` leaves them in).
    Unreadable files get no row and no probability: they are named in `attrs["skipped"]`.
    """
    images, bad = leave_out_bad(images, max_bad)
    images = images.reset_index(drop=True)
    preds = images.assign(p_abnormal=pd.Series(dtype="float64"))
    if len(images):
        dl = learn.dls.test_dl(images, bs=bs or learn.dls.bs, store=None, threads=num_workers)
        with learn.no_bar():
            probs = learn.get_preds(dl=dl, reorder=False)[0].cpu().double()
        if hasattr(learn.loss_func, "unweigh"):
            codes = learn.dls.vocab[0].o2i
            probs = learn.loss_func.cpu().unweigh(probs, torch.tensor([codes[r] for r in images.region]))
        preds["p_abnormal"] = probs.numpy()
    preds["loss"] = cross_entropy(preds.label, preds.p_abnormal)
    preds.attrs["skipped"] = [*images.attrs.get("skipped", []), *bad]
    return preds
