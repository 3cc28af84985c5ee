"""The state from which a training can go on: kept at each epoch's end, taken up again to the same bits."""

from functools import partial
from pathlib import Path

import torch
from fastai.callback.core import Callback, CancelEpochException
from fastai.learner import Learner

from mura_fastai.training.best import KeepBest
from mura_fastai.training.interrupts import Stops
from mura_fastai.training.learner import StopOnNaN
from mura_fastai.training.progress import History
from mura_fastai.training.state import (
    State,
    capture,
    python_state,
    random_state,
    restore,
    set_random_state,
    write_state,
)


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
