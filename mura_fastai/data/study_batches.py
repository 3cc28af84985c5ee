"""Studies as items: all views of one together, padded to the batch's largest number, and a mask of the real ones."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from fastai.torch_core import TensorCategory, to_device
from fasttransform import DisplayedTransform, ItemTransform

from mura_fastai.data.augment import TensorXray
from mura_fastai.data.batches import XrayDL, show_images, study_of
from mura_fastai.data.resident import on_device
from mura_fastai.errors import InputError

MAX_VIEWS = 8  # of a study in a training batch: a few of MURA's have more, and would make every batch as wide
BY = ("image", "study")  # what an item of a loader may be


class OneView(DisplayedTransform):
    "A row by itself is a study of one view."

    input_types = object  # fastai asks: a row, a record or a path

    def encodes(self, row: object) -> TensorCategory:
        return TensorCategory([True])


class PadViews(ItemTransform):
    """M x 1 x H x W, study after study, to N x V x 1 x H x W: black views stand where a study has fewer than V.

    Last of all transforms, so that each real view is augmented by a draw of its own, and none that is not there. Until
    then the mask comes first in the batch, since fastai counts the rows of a batch by its first item.
    """

    order = 1000

    def encodes(self, batch: list) -> tuple:
        if batch[0].ndim == 5:
            return tuple(batch)
        mask, x, region, study, *label = batch
        views, mask = mask, mask.as_subclass(torch.Tensor)
        n, most = mask.shape
        # Where each place's view lies among the M; without asking the device how many there are.
        at = (mask.flatten().cumsum(0) - 1).clamp(min=0)
        padded = x.as_subclass(torch.Tensor).index_select(0, at)
        padded.masked_fill_(~mask.flatten()[:, None, None, None], 0)
        return padded.view(n, most, *x.shape[1:]).as_subclass(TensorXray), region, study, views, *label


class StudyDL(XrayDL):
    """An `XrayDL` whose items are studies: (image N x V x 1 x H x W, region N, study N, views N x V, label N).

    `views` is True for what is a view and False for padding; V is the largest number of views in the batch. Pixels
    come as those of `XrayDL` do. `n`, the length and the batch size count studies; `items` stays a table of images.
    """

    inputs = 4  # image, region, study, views

    def __init__(
        self,
        dataset=None,  # fastai's Datasets over rows of an images table
        max_views: int | None = None,  # of a study in a shuffled pass: a new random choice each time; None takes all
        wgts=None,  # a weight for each row: shuffled passes draw studies by the mean of theirs, with replacement
        **kwargs,
    ):
        super().__init__(dataset, wgts=wgts, **kwargs)
        self.max_views, self._views = max_views, []
        if dataset is not None:
            names = self._each("study") if "study" in self._names() else self._each("path")
            self._codes, self.studies = pd.factorize(np.array([study_of(i) for i in names], object))
            rows = np.argsort(self._codes, kind="stable")
            self._rows = np.split(rows, np.cumsum(np.bincount(self._codes))[:-1]) if len(rows) else []
            self.n = len(self._rows)
            if wgts is not None:
                self.wgts = [float(np.mean(np.asarray(wgts, float)[rows])) for rows in self._rows]

    @property
    def fewest_views(self) -> int:
        "Of a study in a batch."
        most = self.max_views if self.shuffle and self.max_views is not None else np.inf
        return int(min(most, *map(len, self._rows)))

    def new(self, dataset=None, cls=None, **kwargs):
        return super().new(dataset, cls, **(dict(max_views=self.max_views) | kwargs))

    def create_batches(self, samps):
        if not self.whole:
            raise InputError(
                "studies come as whole batches: leave transforms of single images out (item_tfms, before_batch), or "
                "take images one by one (by='image')"
            )
        return super().create_batches(samps)

    def _chunks(self, samps: np.ndarray) -> list[np.ndarray]:
        "The rows of each batch, study after study; how many each study has is kept in `_views`."
        chunks = [[self._some(self._rows[i]) for i in studies] for studies in super()._chunks(samps)]
        self._views = [np.array([len(rows) for rows in studies]) for studies in chunks]
        return [np.concatenate(studies) for studies in chunks]

    def _some(self, rows: np.ndarray) -> np.ndarray:
        "The views of a study that are taken this time."
        if not self.shuffle or self.max_views is None or len(rows) <= self.max_views:
            return rows
        return np.array(sorted(self.rng.sample(rows.tolist(), self.max_views)))

    def _whole_batches(self, chunks: list[np.ndarray], first: int = 0) -> Iterator[tuple]:
        on = self.device or torch.device("cpu")
        for i, (pixels, *codes) in enumerate(super()._whole_batches(chunks, first), first):
            if self.skip_bad:  # some may be gone
                of = self._codes[self.made[i]]
                views = np.diff(np.flatnonzero(np.diff(of, prepend=-1, append=-1)))
            else:
                views = self._views[i]
            front = on_device((np.cumsum(views) - views).tolist(), on)
            mask = on_device((np.arange(views.max()) < views[:, None]).tolist(), on).bool()
            region, study, *label = (c[front] for c in codes)
            yield mask.as_subclass(TensorCategory), pixels, region, study, *label

    def _one_pass(self):
        self._n_inp, self._types = 4, {tuple: [TensorXray, *[TensorCategory] * 4]}

    def show_batch(
        self,
        b=None,  # a batch; without one, the first studies of a pass
        max_n: int = 3,  # studies to show, at the most
        ctxs=None,  # axes to draw on
        show: bool = True,  # False gives the batch
        figsize=None,  # inches, width and height
        **kwargs,
    ):
        "Show all views of some studies, with region and label."
        if b is None:
            self.before_iter()
            bs, self.bs = self.bs, max_n
            try:
                batch = next(self.create_batches(self.get_idxs()[:max_n]))
            finally:
                self.bs = bs
            b = self.after_batch(to_device(batch, self.device))
        return self._show(b, max_n, ctxs, figsize) if show else b

    def show_results(self, b, out, max_n: int = 3, ctxs=None, show: bool = True, figsize=None, **kwargs):
        "Show all views of some studies with the true label above the predicted one, in red where they differ."
        out = out[0] if isinstance(out, (tuple, list)) else out
        return self._show(b, max_n, ctxs, figsize, out) if show else (b, out)

    def _show(self, b: tuple, max_n: int, ctxs=None, figsize=None, out=None):
        b = self.decode(b)
        x, region, mask = b[0][:max_n], b[1], b[3].bool()
        names, labels = self.dataset.tls[1].vocab, self.vocab[-1]
        pictures, titles, colors = [], [], []
        for i, views in enumerate(x):
            label = labels[int(b[4][i])] if len(b) > 4 else ""
            said = "" if out is None else f"{label}, predicted {labels[int(out[i])]}"
            for k in range(int(mask[i].sum())):
                pictures.append(views[k])
                titles.append([f"study {i + 1}, view {k + 1}", str(names[int(region[i])]), said or label])
                colors.append("#cc3311" if out is not None and int(out[i]) != int(b[4][i]) else "black")
        return show_images(pictures, titles, ctxs, figsize, colors)
