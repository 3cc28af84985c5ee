"""The loaders that ours is compared with, each as its own documentation has it be fast: the same job, the same files.

Every one reads a file as grey, scales its longer side to `size` and pads a square with black. The jobs: `uint8` batches
are bytes; `float` ones are normalised besides; `augmented` ones flipped, rotated, zoomed and lit differently besides.
"""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from fastai.data.block import CategoryBlock, DataBlock, TransformBlock
from fastai.data.core import DataLoaders
from fastai.data.transforms import IntToFloatTensor, Normalize
from fastai.vision.augment import PadMode, Resize, ResizeMethod, aug_transforms
from fastai.vision.core import PILImageBW
from fastai.vision.data import ImageBlock
from PIL import Image
from timm.data import ImageDataset, create_loader
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler
from torchvision.transforms import InterpolationMode, v2

from mura_fastai.data.augment import GREY_STATS

try:  # the fastest decoder that PyTorch brings, a tenth ahead of Pillow, but torchvision is going to give it up
    from torchvision.io import ImageReadMode, decode_image
except ImportError:
    decode_image = None

JOBS = ("uint8", "float", "augmented")
# The change that ours and every competitor makes to a batch; half of the images are rotated and zoomed, half are lit.
DEGREES, ZOOM, LIGHT, P = 30.0, (0.9, 1.15), 0.1, 0.5
Batches = Callable[[], Iterator]  # starts an epoch of (images on the device, labels)


# ---------------------------------------------------------------- fastai as it comes


def fastai_augment() -> list:
    "The batch transforms of a stock pipeline: what `aug_transforms` makes of the same limits, and Normalize."
    augment = aug_transforms(
        do_flip=True, max_rotate=DEGREES, min_zoom=ZOOM[0], max_zoom=ZOOM[1], max_lighting=LIGHT, max_warp=0,
        p_affine=P, p_lighting=P, pad_mode=PadMode.Zeros,
    )  # fmt: skip
    return [IntToFloatTensor(), *augment, _fastai_normalize()]


def _fastai_normalize() -> Normalize:
    return Normalize.from_stats([GREY_STATS[0]], [GREY_STATS[1]], dim=1, cuda=False)


def fastai_dls(
    paths: list[str],
    labels: list[int],
    size: int,  # side of the padded square in pixels
    bs: int,  # images a batch
    job: str,  # one of `JOBS`
    workers: int,  # processes
    device: torch.device,
) -> DataLoaders:  # `train` shuffled and cut to whole batches; `valid` the same files in order
    "A stock DataBlock: PILImageBW, Resize by padding, transforms of batches on the device."
    known = dict(zip(paths, labels, strict=True))
    tfms = {"uint8": [], "float": [_fastai_normalize()], "augmented": fastai_augment()}[job]
    # An ImageBlock would turn bytes into floats whatever happens to them next.
    image = TransformBlock(type_tfms=PILImageBW.create) if job == "uint8" else ImageBlock(PILImageBW)
    block = DataBlock(
        blocks=(image, CategoryBlock(vocab=[0, 1], sort=False)),
        get_y=lambda path: known[path],
        splitter=lambda items: (list(range(len(items))), list(range(len(items)))),
        item_tfms=Resize(size, ResizeMethod.Pad, PadMode.Zeros),
        batch_tfms=tfms,
    )
    return block.dataloaders(paths, bs=bs, num_workers=workers, device=device, pin_memory=device.type == "cuda")


def fastai_batches(*args, shuffle: bool = True, **kwargs) -> Batches:
    "Epochs of `fastai_dls`, which is given the arguments."
    dls = fastai_dls(*args, **kwargs)
    dl = dls.train if shuffle else dls.valid
    return lambda: iter(dl)


# ---------------------------------------------------------------- PyTorch's DataLoader and torchvision


class Files(Dataset):
    "Image files for a `DataLoader`, decoded and transformed one by one."

    def __init__(
        self,
        paths: list[str],
        labels: list[int],
        tfms: Callable,  # of a tensor, 1 x H x W bytes
    ):
        self.paths, self.labels, self.tfms = paths, labels, tfms

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return self.tfms(_read(self.paths[i])), self.labels[i]


def _read(path: str) -> torch.Tensor:
    "1 x H x W bytes."
    if decode_image is not None and path.lower().endswith((".png", ".jpg", ".jpeg")):
        return decode_image(path, ImageReadMode.GRAY)
    return v2.functional.pil_to_tensor(Image.open(path).convert("L"))


def torch_tfms(
    size: int,  # side of the padded square in pixels
    job: str,  # one of `JOBS`
    in_worker: bool,  # normalise there, image by image; else later, whole batches
) -> v2.Compose:
    "What torchvision does to one image."
    steps = [v2.Resize(size=None, max_size=size), v2.CenterCrop(size)]  # a crop of more than there is pads with black
    if job == "augmented":
        affine = v2.RandomAffine(DEGREES, scale=ZOOM, interpolation=InterpolationMode.BILINEAR)
        light = v2.ColorJitter(brightness=LIGHT, contrast=LIGHT)
        steps += [v2.RandomHorizontalFlip(), v2.RandomApply([affine], P), v2.RandomApply([light], P)]
    return v2.Compose(steps + ([torch_normalize()] if in_worker and job != "uint8" else []))


def torch_normalize() -> v2.Compose:
    "Bytes to normalised floats."
    return v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize([GREY_STATS[0]], [GREY_STATS[1]])])


def torch_batches(
    paths: list[str],
    labels: list[int],
    size: int,  # side of the padded square in pixels
    bs: int,  # images a batch
    job: str,  # one of `JOBS`
    workers: int,  # processes
    device: torch.device,
    prefetch: int = 2,  # batches that each process makes ahead
    in_worker: bool = True,  # normalise there, image by image; else on the device, whole batches
    shuffle: bool = True,
) -> Batches:
    "PyTorch's DataLoader with torchvision's v2 transforms: processes that stay, pinned memory for a GPU."
    files = Files(paths, labels, torch_tfms(size, job, in_worker))
    later = torch_normalize() if job != "uint8" and not in_worker else None
    options = _worker_options(workers, prefetch, device) | dict(batch_size=bs, shuffle=shuffle, drop_last=shuffle)
    return lambda: _to_device(DataLoader(files, **options), device, later)


def _worker_options(workers: int, prefetch: int, device: torch.device) -> dict:
    more = dict(prefetch_factor=prefetch, persistent_workers=True) if workers else {}
    return dict(num_workers=workers, pin_memory=device.type == "cuda", **more)


def _to_device(loader, device: torch.device, later: Callable | None = None) -> Iterator:
    for x, y in loader:
        x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
        yield x if later is None else later(x), y


class ArrayRows(Dataset):
    "Whole batches from an array of decoded images: what a `DataLoader` makes of our store."

    def __init__(
        self,
        array: np.ndarray,  # uint8, n x size x size
        labels: list[int],  # as many as items of an epoch
    ):
        self.array, self.labels = array, np.array(labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, items: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        rows = np.array(items) % len(self.array)
        return torch.from_numpy(self.array[rows])[:, None], torch.from_numpy(self.labels[items])


def array_batches(
    array: np.ndarray,  # of our store
    labels: list[int],
    bs: int,  # images a batch
    workers: int,  # processes
    device: torch.device,
    prefetch: int = 2,  # batches that each process makes ahead
    shuffle: bool = True,
) -> Batches:
    "PyTorch's DataLoader over the array of our store, batch by batch, so that the store alone is not taken for ours."
    rows = ArrayRows(array, labels)
    order = RandomSampler(rows) if shuffle else SequentialSampler(rows)
    options = _worker_options(workers, prefetch, device)
    options |= dict(batch_size=None, sampler=BatchSampler(order, bs, drop_last=shuffle))
    return lambda: _to_device(DataLoader(rows, **options), device)


# ---------------------------------------------------------------- timm


class PathReader:
    "Files for timm's ImageDataset."

    def __init__(self, paths: list[str], labels: list[int]):
        self.paths, self.labels = paths, labels

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[str, int]:
        return self.paths[i], self.labels[i]


def timm_batches(
    paths: list[str],
    labels: list[int],
    size: int,  # side of the padded square in pixels
    bs: int,  # images a batch
    job: str,  # one of `JOBS`
    workers: int,  # processes
    device: torch.device,
    prefetcher: bool = True,  # bytes from the processes, normalised on the device; else floats from the processes
) -> Batches:
    """timm's `create_loader`, grey.

    It pads floats with the mean grey instead of black. Its augmentation has no rotation outside of RandAugment, and
    crops after its own rule. Only the augmented job is shuffled: timm shuffles where it augments.
    """
    mean, std = ((0.0,), (1.0,)) if job == "uint8" else ([s] for s in GREY_STATS)
    make = partial(
        create_loader, input_size=(1, size, size), batch_size=bs, num_workers=workers, device=device,
        pin_memory=device.type == "cuda", use_prefetcher=prefetcher or job == "uint8", persistent_workers=True,
        mean=tuple(mean), std=tuple(std), crop_pct=1.0, crop_mode="border",
    )  # fmt: skip
    if job == "augmented":
        scale = tuple(z**2 for z in ZOOM)  # of the area
        make = partial(
            make, is_training=True, train_crop_mode="rkrc", scale=scale, ratio=(1.0, 1.0), hflip=0.5,
            color_jitter=(LIGHT, LIGHT, 0.0), color_jitter_prob=P,
        )  # fmt: skip

    def start() -> Iterator:
        loader = make(ImageDataset("", reader=PathReader(paths, labels), input_img_mode="L"))
        # Its prefetcher gives floats; inside is the loader of bytes.
        return _to_device(loader.loader if job == "uint8" else loader, device)

    return start
