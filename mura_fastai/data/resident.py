"""Where decoded pixels lie while a loader is used, and how whole batches of them come to the device."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial

import numpy as np
import torch

from mura_fastai.data.store import Store
from mura_fastai.errors import InputError

SHARE = 0.6  # of a GPU's free memory that pixels may take; the rest is for the network and its activations
PART = 1024  # images a copy to the device: 100 MB at 320 px


class Resident:
    "Some rows of a store, held in a device's memory: batches are gathered there and nothing has to travel."

    def __init__(
        self,
        store: Store,  # decoded images
        rows: np.ndarray,  # rows of it that will be asked for
        device: torch.device,  # whose memory holds them
    ):
        rows = np.unique(rows)
        self.size, self.device = store.size, device
        self.place = np.full(len(store), -1, np.int64)
        self.place[rows] = np.arange(len(rows))
        self.pixels = torch.empty((len(rows), store.size**2), dtype=torch.uint8, device=device)
        for start in range(0, len(rows), PART):
            part = store.gather(rows[start : start + PART])
            self.pixels[start : start + PART].copy_(part.view(len(part), -1))

    def index(
        self,
        rows: np.ndarray,  # rows of the store
    ) -> torch.Tensor | None:  # int64 on the device; None where not all of them are held
        "The places of these rows."
        places = self.place[rows]
        return None if (places < 0).any() else torch.from_numpy(places).to(self.device)

    def gather(
        self,
        index: torch.Tensor,  # n places, from `index`
    ) -> torch.Tensor:  # uint8, n x 1 x size x size, on the device
        "A whole batch by index."
        return self.pixels.index_select(0, index).view(-1, 1, self.size, self.size)


def fits(
    n_bytes: int,  # of pixels
    device: torch.device,  # a GPU
) -> tuple[bool, int]:  # whether they should lie there, and the bytes that are free
    "Do pixels leave enough of a GPU's free memory to train in?"
    free = torch.cuda.mem_get_info(device)[0]
    return n_bytes <= SHARE * free, free


def place_pixels(
    store: Store | None,  # decoded images; without a store files are decoded every epoch
    rows: np.ndarray | None,  # rows of it that will be asked for
    device: torch.device,  # where batches are wanted
    resident: bool | None = None,  # hold the pixels in the device's memory; None decides
) -> tuple[Resident | None, str]:  # the pixels on the device, if they lie there; what was chosen, in words
    """Choose where a loader's pixels lie.

    On a GPU in its own memory where they fit. On a CPU where they are: a memory map is memory already, and a copy would
    only take room. Raises `InputError` where `resident=True` does not fit.
    """
    if store is None:
        if resident:
            raise InputError("resident=True needs a store of decoded images; build_store(images, path) makes one")
        return None, "files are decoded each epoch"
    n_bytes, gpu = len(np.unique(rows)) * store.size**2, device.type == "cuda"
    told = f"{n_bytes / 1e9:.1f} GB of pixels" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.0f} MB of pixels"
    if resident is not False and gpu:
        enough, free = fits(n_bytes, device)
        told += f", {free / 1e9:.1f} GB free on the GPU"
        if resident and not enough:
            raise InputError(f"{told}: they would fill it; leave resident=True out, or use smaller images")
        resident = enough
    if resident:
        return Resident(store, rows, device), f"{told}: gathered in the {'GPU' if gpu else 'main'} memory"
    return None, f"{told}: gathered from the store's memory map" + (", the next batch on its way" if gpu else "")


def gather_batches(
    store: Store,  # decoded images
    resident: Resident | None,  # some of them, on the device
    batches: list[np.ndarray],  # rows of the store, batch by batch
    device: torch.device,  # where the batches are wanted; a GPU gets them there, else they are in the host's memory
) -> Iterator[torch.Tensor]:  # uint8, n x 1 x size x size
    "Whole batches by index, from where their pixels lie."
    index = resident.index(np.concatenate(batches)) if resident is not None and batches else None
    if index is not None:  # the epoch's order travels once
        return (resident.gather(part) for part in index.split([len(b) for b in batches]))
    if device.type == "cuda":
        return copied_ahead(ahead(partial(_gather_pinned, store, rows) for rows in batches), device)
    return (store.gather(rows) for rows in batches)


def _gather_pinned(store: Store, rows: np.ndarray) -> torch.Tensor:
    "A batch in memory that a GPU reads by itself."
    out = torch.empty((len(rows), 1, store.size, store.size), dtype=torch.uint8, pin_memory=True)
    return store.gather(rows, out)


def on_device(
    index: list[int],
    device: torch.device,  # where it is used
) -> torch.Tensor:  # int64, on the device
    "An index, brought to the device without waiting for it."
    index = torch.tensor(index, dtype=torch.int64)
    return index.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else index.to(device)


def ahead(
    tasks: Iterable,  # functions without arguments, each of which makes a batch
    depth: int = 2,  # batches that are made meanwhile
) -> Iterator:  # what they give, in order
    "Make the next batches in a thread while one is in use."
    with ThreadPoolExecutor(1) as pool:
        under_way = deque()
        try:
            for task in tasks:
                under_way.append(pool.submit(task))
                if len(under_way) > depth:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            for future in under_way:
                future.cancel()


@cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    "One for all passes: PyTorch keeps the memory of each stream apart."
    return torch.cuda.Stream(device)


def copied_ahead(
    batches: Iterable[torch.Tensor],  # in pinned memory of the host; PyTorch keeps it until a copy is done
    device: torch.device,  # a GPU
) -> Iterator[torch.Tensor]:  # on the GPU
    "Copy each batch to the GPU, on a stream of its own, while the one before is in use."
    copies, waiting = _copy_stream(device), deque()

    def hand_over(batch: torch.Tensor, done: torch.cuda.Event) -> torch.Tensor:
        now = torch.cuda.current_stream(device)
        now.wait_event(done)
        batch.record_stream(now)  # its memory is not given to the next copy before this stream is through with it
        return batch

    for batch in batches:
        with torch.cuda.stream(copies):
            moved = batch.to(device, non_blocking=True)
            done = torch.cuda.Event()
            done.record(copies)
        waiting.append((moved, done))
        if len(waiting) > 1:
            yield hand_over(*waiting.popleft())
    while waiting:
        yield hand_over(*waiting.popleft())
