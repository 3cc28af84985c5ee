"""What a training run says while it goes on: to the terminal, and to history.csv."""

import csv
import sys
import time
from contextlib import suppress
from pathlib import Path

from fastai.callback.core import Callback

from mura_fastai.files import replacing


class History(Callback):
    "A row of history.csv an epoch, as it ends: losses, study-level scores on tune, seconds."

    order = 60  # after fastai's Recorder

    def __init__(
        self,
        file: Path,  # history.csv of the run
    ):
        self.file, self.rows = Path(file), []

    def before_epoch(self):
        self.started = time.perf_counter()

    def after_epoch(self):
        # `metric_names` counts the epoch first and the time last; tune is what fastai calls valid.
        names = [n.replace("valid_loss", "tune_loss") for n in self.recorder.metric_names[1:]]
        values = dict(zip(names, self.recorder.values[-1], strict=False))
        seconds = round(time.perf_counter() - self.started, 2)
        self.rows.append({"epoch": len(self.rows), **values, "lr": self.opt.hypers[-1]["lr"], "seconds": seconds})
        self.write()

    def write(self):
        "Put the rows on disk."
        if not self.rows:
            self.file.unlink(missing_ok=True)
            return
        with replacing(self.file) as aside, open(aside, "w", newline="", encoding="utf-8") as f:
            writer = csv.DictWriter(f, self.rows[0])
            writer.writeheader()
            writer.writerows(self.rows)


class EpochLines(Callback):
    "One line an epoch on stderr; on a terminal also the batch that is being trained."

    order = 61

    def __init__(
        self,
        history: History,  # whose last row is shown
        epochs: int,  # in all, over several fits
    ):
        self.history, self.epochs = history, epochs

    def after_batch(self):
        if self.training and sys.stderr.isatty():
            now = f"epoch {len(self.history.rows) + 1}/{self.epochs}, batch {self.iter + 1}/{self.n_iter}"
            print(f"\r\x1b[K{now}", end="", file=sys.stderr, flush=True)

    def after_epoch(self):
        row = self.history.rows[-1]
        clear = "\r\x1b[K" if sys.stderr.isatty() else ""
        scores = "  ".join(
            f"{k.replace('_', ' ')} {v:.3f}" for k, v in row.items() if k not in ("epoch", "lr", "seconds")
        )
        line = f"epoch {row['epoch'] + 1:>2}/{self.epochs}  {scores}  {row['seconds']:.0f} s"
        with suppress(OSError):  # nobody listens any more: what the epoch has learned is still to be kept
            print(clear + line, file=sys.stderr, flush=True)
