"""What a run predicts and how it decides, all of it by the weights of one moment: it may still be in training."""

import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from fastai.learner import Learner

from mura_fastai.confined import resuming
from mura_fastai.data.inspection import limit_bad
from mura_fastai.data.reading import print_left_out, read_data
from mura_fastai.data.store import Store, build_store, store_folder, whole_store
from mura_fastai.data.studies import SPLITS
from mura_fastai.errors import InputError, NoData, NoImages
from mura_fastai.files import replacing
from mura_fastai.results.calibrate import Decision, choose_decision, read_decision, write_decision
from mura_fastai.results.predict import predict_images
from mura_fastai.results.tables import own_predictions, write_predictions
from mura_fastai.text import one_of
from mura_fastai.training.alone import trained_by
from mura_fastai.training.beside import KEPT, placing, weights_mark
from mura_fastai.training.runs import load_run, read_settings
from mura_fastai.training.state import read_told
from mura_fastai.training.tables import lost_data, own_images


class Moment:
    """The best weights that a run has now, what lies beside them, and what is made with them.

    Read and made once, it is kept in the run's folder as long as these weights are there, and else only given back.
    Of a run that is being trained they are read at once: better ones may come before they are needed. That is said on
    stderr."""

    def __init__(
        self,
        run: str | Path,  # a run's folder
    ):
        self.run, self.settings = Path(run), read_settings(run)
        self.mark, self.loaded = weights_mark(run), None
        if self.mark is None:  # said where they are needed
            return
        who = trained_by(run)
        if not who:
            if n := how_far(run):  # it is scored all the same: that is to be known
                more = f"to go on: {resuming(run)}"
                print(f"{run}: interrupted after {n}; this is of the best so far; {more}", file=sys.stderr)
            return
        print(f"{run}: {who} is training it; this is of the best of its epochs so far", file=sys.stderr)
        while self.loaded is None:
            self.mark, learn = weights_mark(run), load_run(run)
            self.loaded = learn if self.lasts() else None

    def lasts(self) -> bool:
        "Whether its weights are still those of the run."
        return weights_mark(self.run) == self.mark

    @property
    def learn(self) -> Learner:
        "The run's Learner with these weights. Raises `InputError` where a training has begun, and replaced them."
        if self.loaded is None:
            learn = load_run(self.run)
            if not self.lasts():
                raise InputError(f"{self.run}: better weights were put there just now; give the command again")
            self.loaded = learn
        return self.loaded

    def predictions(
        self,
        data: str | Path | None = None,  # other data than the run's own
        split: str = "valid",  # rows to predict
        source: str | None = None,  # of data: mura, fracatlas, folder or csv
    ) -> pd.DataFrame:  # the predictions table
        "As of `predictions_of`."
        if split not in SPLITS:
            raise InputError(f"unknown split {split!r}; the known ones are {', '.join(SPLITS)}")
        mine, own = data is None and split in KEPT, own_images(self.run, self.settings.get("data"))
        if mine and (kept := self.kept_predictions(split)) is not None:
            return kept
        # Data without an official split is split as the run's was, or rows it trained on would come as valid ones.
        seed = (self.settings.get("data") or {}).get("split_seed", 0)
        images = own if data is None else read_data(data, source, max_bad=1.0, split_seed=seed)
        images = images[images.split == split]
        if images.empty:
            raise NoImages(f"{data or self.run}: no rows of split {split!r}")
        if data is None and (lost := lost_data(self.run, self.settings.get("data"), images.path)):
            raise lost
        store = _decoded(self.settings, own, images) if data is None else None
        preds = predict_images(self.learn, images, store=store)
        known = {s["path"] for s in images.attrs.get("skipped", [])}
        bad = [s for s in preds.attrs["skipped"] if s["path"] not in known]
        if mine:
            files, remedy = set(images.path), f"or allow more by max_bad in {self.run / 'settings.yaml'}"
            limit_bad([s for s in bad if s["path"] in files], len(images), self.settings.get("max_bad", 0.05), remedy)
        print_left_out(bad)
        if mine:
            _keep_skipped(self.run, preds.attrs["skipped"])
            self.keep(lambda: write_predictions(preds, self.run / KEPT[split]))
        return preds

    def kept_predictions(
        self,
        split: str,  # valid or tune
    ) -> pd.DataFrame | None:  # None where there are none of these weights
        "Predictions that were made before."
        return self._made_before(KEPT[split], lambda file: own_predictions(file, self.settings.get("data")))

    def decision(self) -> Decision:
        "As of `decision_of`."
        kept = self._made_before("decision.yaml", lambda file: read_decision(file.parent))
        if kept is not None:
            return kept
        try:
            tune = self.predictions(split="tune")
        except NoData as e:
            print(f"no threshold was chosen on its own tune images, so abnormal is above 0.5: {e}", file=sys.stderr)
            return Decision()
        except NoImages as e:  # and nothing else: better weights, for one, would decide in another way
            print(f"no threshold could be chosen, so abnormal is above 0.5: {e}", file=sys.stderr)
            return Decision()
        try:
            decision = choose_decision(tune)
        except InputError as e:
            print(f"no threshold was chosen, so abnormal is above 0.5: {e}", file=sys.stderr)
            decision = Decision(chosen_on={"not chosen": str(e)})

        def write():
            nonlocal decision
            # What somebody chose meanwhile, by a rule of his own, stays.
            if (kept := read_decision(self.run)) is None:
                write_decision(decision, self.run)
            else:
                decision = kept

        self.keep(write)
        return decision

    def keep(
        self,
        write: Callable[[], object],  # puts a file into the run's folder
    ) -> bool:  # whether it did
        "Have something written that was made with these weights, unless others are there by now."
        with placing(self.run):
            # Nor do other paths: somebody may have said where the data lies now (`relocate_run`).
            same = self.lasts() and read_settings(self.run).get("data") == self.settings.get("data")
            if same:
                write()
        return same

    def _made_before(self, name: str, read: Callable):
        "What is kept there, if it is of these weights: training takes it away with every epoch that it keeps."
        file = self.run / name
        if not file.exists():
            return None
        try:
            kept = read(file)
        except InputError:
            if file.exists():
                raise
            return None  # taken away between two lines
        return kept if self.lasts() else None


def how_far(
    run: str | Path,  # a run's folder, which nobody trains now
) -> str:  # such as "3 of 10 epochs"
    "How far a run was trained that was interrupted; empty for one that is trained to its end."
    try:
        told = read_told(run)
    except InputError:  # who goes on is told; its weights are whole or not all the same
        return ""
    if told is None or told["done"]:
        return ""
    return f"{len(told['rows'])} of {one_of(told['settings']['epochs'] + told['settings']['freeze_epochs'], 'epoch')}"


def _decoded(settings: dict, own: pd.DataFrame, images: pd.DataFrame) -> Store | None:
    "Where the run's images lie decoded already: in the store it was trained from, or in the cache's for its table."
    named, size = settings.get("store"), settings["size"]
    if isinstance(named, str):  # whoever wrote the settings: what lies there is read, and never written
        return whole_store(named, images.path.tolist(), size)
    cached = store_folder(own, size)
    return build_store(images, cached, size, wait=True) if cached.exists() else None


def _keep_skipped(run: Path, skipped: list[dict]):
    "Name in the run's skipped.csv what could be read in training and cannot be any more."
    file, told = run / "skipped.csv", pd.DataFrame(skipped, columns=["path", "reason"])
    if told.empty:
        return
    try:
        old = pd.read_csv(file, dtype="str", keep_default_na=False, encoding_errors="surrogateescape")
        told = pd.concat([old, told]).drop_duplicates(["path", "reason"])
    except (OSError, ValueError, KeyError):
        pass  # a run that came without one
    with replacing(file) as aside:
        told.to_csv(aside, index=False, errors="surrogateescape")
