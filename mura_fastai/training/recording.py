"""Losses stay on the device while it works: asking for each as it is made would have the device wait for the answer."""

import torch
from fastai.learner import AvgLoss, AvgSmoothLoss, Recorder


class Arriving:
    """Numbers made on the device, read without waiting for it.

    On a GPU they are copied a few at a time, and seen once they have arrived; on a CPU they are there at once.
    """

    def __init__(
        self,
        every: int = 8,  # numbers a copy, on a GPU
    ):
        self.every, self.made, self.under_way, self.seen = every, [], [], []

    def put(
        self,
        number: torch.Tensor,  # one number
    ):
        "Take a number of this batch."
        self.made.append(number.detach())
        if not number.is_cuda or len(self.made) >= self.every:
            self._move()

    def _move(self):
        "Start a copy of what was made; from a GPU it is asynchronous, and the event says when it is done."
        made = torch.stack(self.made)
        self.made, event = [], None
        host = made.to("cpu", non_blocking=made.is_cuda)
        if made.is_cuda:
            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(made.device))
        self.under_way.append((event, host))

    def arrived(
        self,
        wait: bool = False,  # for all of them
    ) -> list[float]:  # in the order they were made
        "All numbers that are here by now."
        if wait and self.made:
            self._move()
        while self.under_way and (wait or self.under_way[0][0] is None or self.under_way[0][0].query()):
            event, host = self.under_way.pop(0)
            if event is not None:
                event.synchronize()
            self.seen += host.tolist()
        return self.seen


class _MeanLoss(AvgLoss):
    "fastai's mean loss of an epoch, added up on the device."

    def accumulate(self, learn):
        n = len(learn.yb[0])
        self.total += learn.to_detach(learn.loss.mean(), cpu=False) * n
        self.count += n


class _SmoothLoss(AvgSmoothLoss):
    "fastai's smoothed loss, on the device."

    def accumulate(self, learn):
        self.count += 1
        loss = learn.to_detach(learn.loss.mean(), cpu=False)
        self.val = torch.lerp(loss, self.val.to(loss), self.beta)


class DeviceRecorder(Recorder):
    "fastai's Recorder, that reads no loss off the device before the epoch has ended."

    name = "recorder"

    def __init__(self):
        super().__init__()
        self.loss, self.smooth_loss = _MeanLoss(), _SmoothLoss()

    def before_fit(self):
        super().before_fit()
        self.shown = Arriving()

    def after_batch(self):
        super().after_batch()
        if self.training and self.losses:
            # A progress bar reads `smooth_loss` each batch: it gets the last one that has come.
            self.shown.put(self.losses[-1])
            # The search for a learning rate stops by it, and should stop at the same place each time.
            here = self.shown.arrived(wait=hasattr(self.learn, "lr_finder"))
            self.learn.smooth_loss = torch.tensor(here[-1] if here else torch.nan)

    def after_train(self):
        "The losses as fastai's plots want them: small tensors of the host."
        super().after_train()
        self.losses = list(torch.tensor(self.shown.arrived(wait=True)).unbind())
