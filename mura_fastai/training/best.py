"""The best weights of a training: kept, missed after a crash, mended, told of when they are gone."""

import math
from collections.abc import Callable
from pathlib import Path

import torch
from fastai.callback.core import Callback
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from mura_fastai.confined import resuming
from mura_fastai.errors import InputError
from mura_fastai.files import write_bytes
from mura_fastai.models.weights import read_weights
from mura_fastai.text import name_some
from mura_fastai.training.beside import OF_WEIGHTS, best_file, drop_made, placing
from mura_fastai.training.progress import History
from mura_fastai.training.state import State, own_memory, state_file
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
