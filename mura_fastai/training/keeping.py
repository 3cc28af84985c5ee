"""What a training keeps as it goes on: the best weights, and the state from which it can go on."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from fastai.callback.core import Callback, CancelEpochException
from fastai.learner import Learner
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from mura_fastai.confined import resuming
from mura_fastai.errors import InputError
from mura_fastai.files import write_bytes
from mura_fastai.models.weights import read_weights
from mura_fastai.text import name_some
from mura_fastai.training.beside import OF_WEIGHTS, best_file, drop_made, placing
from mura_fastai.training.interrupts import Stops
from mura_fastai.training.learner import StopOnNaN
from mura_fastai.training.progress import History
from mura_fastai.training.state import (
    State,
    capture,
    own_memory,
    python_state,
    random_state,
    restore,
    set_random_state,
    state_file,
    write_state,
)
from mura_fastai.training.state_rules import check_network

EPOCH = "epoch"  # in the header of the best weights: which they are of, from 0


class KeepBest(Callback):
    "Keep the weights of the epoch with the best study-level AUROC on tune (the loss, where tune has one class)."

    order = 64  # after History, and after what learns from an epoch

    def __init__(
        self,
        run: str | Path,  # the run's folder, where the best weights go
        history: History,  # whose rows are compared
        decided: Callable[[], None] | None = None,  # called once it is clear whether these are the best, before writing
    ):
        self.folder, self.history, self.decided, self.best, self.epoch_kept = Path(run), history, decided, None, None

    @property
    def by(self) -> str:
        "What the epoch was chosen by."
        auroc = self.history.rows[self.epoch_kept].get("auroc", math.nan)
        return "lowest loss on tune, where no AUROC can be had" if math.isnan(auroc) else "highest AUROC on tune"

    def after_epoch(self):
        row = self.history.rows[-1]
        auroc = row.get("auroc", math.nan)
        value = -row["tune_loss"] if math.isnan(auroc) else auroc
        value = -math.inf if math.isnan(value) else value  # any epoch with a number is better
        better = self.best is None or value >= self.best
        if better:
            self.best, self.epoch_kept = value, row["epoch"]
        if self.decided:
            self.decided()
        if better:
            save_best(self.folder, self.learn.model.state_dict(), self.epoch_kept)


def save_best(
    run: str | Path,  # a run's folder
    weights: dict[str, torch.Tensor],  # by name
    epoch: int,  # that they are of, from 0
):
    "Put better weights in place, whole or not at all; what was made with the former ones goes before."
    # Not `save_file`: what it writes is closed to other users of a shared folder.
    data = save(own_memory(weights), {EPOCH: str(int(epoch))})
    with placing(run):
        drop_made(run)
        write_bytes(best_file(run), data)


def lacks_best(
    run: str | Path,  # a run's folder
    told: dict | None,  # the plain values of its state
) -> bool:  # False where nobody can tell: an earlier version did not write which epoch the weights are of
    "Whether a crash came between a run's state and the best weights of that very epoch: `mend_best` writes them."
    try:
        epoch = _epoch_of_best(run)
    except (OSError, SafetensorError):
        return False
    return told is not None and epoch is not None and epoch != str(told["best"][1])


def drop_doubtful(
    run: str | Path,  # a run's folder, about to go on
):
    """Take away what was made beside best weights of an earlier version, which name no epoch.

    It put better ones in place and left what was made with the former: nobody can tell any more what that is of."""
    try:
        doubtful = _epoch_of_best(run) is None
    except (OSError, SafetensorError):  # gone or damaged: whoever reads them says so
        return
    if doubtful:
        with placing(run):
            drop_made(run)


def _epoch_of_best(run: str | Path) -> str | None:
    "Which epoch the best weights say they are of."
    with safe_open(best_file(run), "pt") as f:
        return (f.metadata() or {}).get(EPOCH)


class KeepState(Callback):
    """Keep in the run's folder what it takes to go on: at the end of each epoch, every so many batches, when stopped.

    The state is written before the best weights: what is missing of these after a power cut is in it (`mend_best`).
    With `state` the Learner goes on from there: fits, epochs and batches that it has behind it are passed over.
    """

    order = 200  # after all that an event changes

    def __init__(
        self,
        run: str | Path,  # its folder
        history: History,
        best: KeepBest,  # calls `end_epoch`
        epochs: int,  # in all, over all fits
        settings: dict,  # that must be the same when it is taken up
        marks: dict[str, torch.Tensor],  # of the files that it learns from
        every: int | None = None,  # batches between two states within an epoch; None: none
        stops: Stops | None = None,  # asked for after each batch
        state: State | None = None,  # where to go on
    ):
        self.folder, self.history, self.keeper, self.all_epochs = Path(run), history, best, epochs
        self.settings, self.marks, self.every, self.stops, self.pending = (
            settings,
            marks,
            every,
            stops or Stops(),
            state,
        )
        self.fit_now, self.after_pass, best.decided = -1, None, self.end_epoch
        if state is not None:
            history.rows = [dict(row) for row in state.told["rows"]]
            best.best, best.epoch_kept = state.told["best"]

    # ------------------------------------------------ going on

    def take_over_loops(
        self,
        learn: Learner,  # which this callback is about to be given to
    ):
        "Have its loops begin where the state says. fastai's own always begin at 0."
        learn._do_fit, learn.all_batches = self._epochs, self._batches

    def _epochs(self):
        for epoch in range(self._first_epoch(), self.n_epoch):
            self.learn.epoch = epoch
            self.learn._with_events(self.learn._do_epoch, "epoch", CancelEpochException)

    def _first_epoch(self) -> int:
        if self.pending is None:
            return 0
        fit, epoch, _ = self.pending.place
        return self.n_epoch if self.fit_now < fit else epoch if self.fit_now == fit else 0

    def _batches(self):
        self.learn.n_iter = len(self.dl)
        for i, b in enumerate(self.dl, getattr(self.dl, "first_batch", 0)):
            self.learn.one_batch(i, b)

    def before_fit(self):
        self.fit_now += 1

    def before_train(self):
        if self.pending is not None:
            self._take_up(self.pending)
            self.pending = None
        self.before_pass, self.after_pass = self.dls.train.rng.getstate(), None

    def _take_up(self, state: State):
        restore(self.learn, state, self.fit_now == state.place[0])
        for dl, kept in zip(self.dls.loaders, state.told["loaders"], strict=True):
            dl.rng.setstate(python_state(kept))
        generators = partial(set_random_state, state.told["random"], state.tensors)
        if first := state.place[2]:
            self.dls.train.first_batch, self.dls.train.when_begun = first, generators
        else:
            generators()
        for cb in self.learn._grab_cbs(StopOnNaN):  # which counts the batches of a pass
            cb.losses.seen, cb.looked = [0.0] * first, first

    # ------------------------------------------------ keeping

    def after_batch(self):
        asked, done = self.stops.asked, self.iter + 1  # asked once: a signal may come between two lines
        if self.training and (asked or (self.every and done % self.every == 0)):
            for cb in self.learn._grab_cbs(StopOnNaN):  # no state of a training that has failed
                cb.check(wait=True)
            self._save(self.epoch, done)
        elif asked:  # scoring changes nothing: it is done anew
            self._save(self.epoch, len(self.dls.train), self.after_pass)
        if asked:
            self.stops.end()

    def after_train(self):
        self.after_pass = random_state(), self.dls.valid.rng.getstate()

    def end_epoch(self):
        "The epoch is over, its row written, and it is known whether it is the best so far."
        self._save(self.epoch + 1, 0)

    def after_epoch(self):
        if self.stops.asked:
            self.stops.end()

    def _save(self, epoch: int, batch: int, drawn: tuple | None = None):
        done = len(self.history.rows) >= self.all_epochs
        state = capture(self.learn, optimizer=not done)
        (plain, tensors), valid = drawn or (random_state(), self.dls.valid.rng.getstate())
        # The order of a pass follows from what its loader knew before it.
        train = self.before_pass if batch else self.dls.train.rng.getstate()
        best = [None if self.keeper.best is None else float(self.keeper.best), self.keeper.epoch_kept]
        state.told |= dict(
            place=[self.fit_now, epoch, batch], done=done, rows=[plain_row(r) for r in self.history.rows], best=best,
            random=plain, loaders=[train, valid], settings=self.settings,
        )  # fmt: skip
        state.tensors |= tensors | self.marks
        write_state(self.folder, state)


def plain_row(
    row: dict,  # of the history
) -> dict:
    "Its values as JSON has them, to the last digit."
    return {k: int(v) if k == "epoch" else float(v) for k, v in row.items()}


def _holds_best(told: dict) -> bool:
    "Whether the weights of a state are the best ones: those of its last epoch, before a batch of the next."
    return told["best"][1] == len(told["rows"]) - 1 and told["place"][2] == 0


def has_learned(
    run: str | Path,  # a run's folder
) -> bool:
    "Whether a training has anything to lose: a state, best weights, or what weights left that are gone."
    left = any((Path(run) / name).exists() for name in OF_WEIGHTS)
    if left or state_file(run).exists() or best_file(run).exists():
        return True
    try:
        # A line names the columns. The first epoch's comes before its weights: who was killed in between has none.
        return len((Path(run) / "history.csv").read_text(encoding="utf-8").splitlines()) > 2
    except (OSError, ValueError):
        return False


def told_gone(
    run: str | Path,  # a run's folder, without best weights
    told: dict | None,  # the plain values of its state; None where it has none
) -> str:
    "What became of them, and what to do: some never were, some are in the state, others are gone for good."
    file = best_file(run)
    if told is None and has_learned(run):
        return f"{file}: gone, and the run's state with it; bring the folder back, or train anew (mura train --out)"
    if told is None or told["best"][1] is None:
        return f"{run}: no weights yet; mura resume trains it to the end of an epoch, and on"
    if _holds_best(told):
        return f"{file}: not there, but the run's last state holds these weights; bring them back: {resuming(run)}"
    beside = sorted(f.name for f in file.parent.glob("*.safetensors"))
    remedy = f"if they are in {name_some(beside)}, rename that" if beside else "bring them back"
    return (
        f"{file}: gone, and the weights of epoch {told['best'][1] + 1}, the best, with it; {remedy}, or train anew "
        "into another folder (mura train --out)"
    )


def mend_best(
    best: KeepBest,  # of the state's epoch
    state: State,
):
    """Write the best weights that a crash kept from being written: then they are those of the state's last epoch.

    Raises `InputError` where others are missing, which cannot be had again, and where there are another network's."""
    weights, file = state.part("model"), best_file(best.folder)
    if best.epoch_kept is None:
        return
    if _holds_best(state.told):
        try:
            there = read_weights(file)
        except InputError:
            there = {}
        try:
            check_network(there or weights, weights)
        except ValueError as e:
            raise InputError(f"{file}: of another network than the run's state ({e}); take it out of the run") from None
        if weights.keys() != there.keys() or not all(torch.equal(v, there[k]) for k, v in weights.items()):
            save_best(best.folder, weights, best.epoch_kept)
    elif not file.exists():
        raise InputError(told_gone(best.folder, state.told))
