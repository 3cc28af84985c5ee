"""Commands of the data floor: `mura phantom`, `mura summarize` and `mura prepare`."""

import time
from pathlib import Path
from typing import Annotated

import typer

from mura_fastai.commands import shared


def phantom(
    root: Annotated[Path, typer.Argument(help="A new folder; it will look like MURA's own.")],
    studies: Annotated[int, typer.Option(help="Studies in all, a fifth of them valid.")] = 400,
    seed: Annotated[int, typer.Option(help="Same seed and versions, same bytes.")] = 0,
    size: Annotated[int, typer.Option(help="Longest side of the pictures, in pixels.")] = 512,
    one_view: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of studies that show it in one view alone; a fifth or so.")
    ] = None,
):
    """Make synthetic radiographs in MURA's layout.

    The truth about each of them is in phantom.csv.

    \b
    mura phantom data/phantom --studies 400
    """
    from mura_fastai.bars import stderr_bar
    from mura_fastai.data.phantom import make_phantom
    from mura_fastai.text import one_of

    images = make_phantom(root, studies, seed, size, progress=stderr_bar("drawing studies"), one_view=one_view)
    counts = f"{one_of(images.study.nunique(), 'study')}, {one_of(len(images), 'image')}"
    print(f"{root}: {counts}; next: mura train {root} --size 128")


def summarize(
    data: shared.Data,
    source: shared.Source = None,
    max_bad: shared.MaxBad = 0.05,
    split_seed: shared.SplitSeed = 0,
    allow_leaks: shared.AllowLeaks = False,
    as_json: shared.AsJson = False,
):
    """Count patients, studies, images: per split and region.

    \b
    mura summarize MURA-v1.1
    """
    from mura_fastai.bars import stderr_bar
    from mura_fastai.data import studies
    from mura_fastai.data.sources import read_images
    from mura_fastai.text import one_of

    images = read_images(
        data, source, max_bad=max_bad, seed=split_seed, allow_leaks=allow_leaks, decode=False,
        progress=stderr_bar("checking images"),
    )  # fmt: skip
    table, skipped = studies.summarize(images), images.attrs["skipped"]
    tune = int(images.study[images.split == "tune"].nunique())
    if as_json:
        rows = table.reset_index().astype(object).where(lambda t: t.notna(), None).to_dict("records")
        shared.print_json({"table": rows, "tune_studies": tune, "skipped": skipped})
        return
    shown = table.assign(abnormal_share=[f"{x:.1%}" if x == x else "n/a" for x in table.abnormal_share])
    print(shown.rename(columns=lambda c: c.replace("_", " ")).reset_index().to_string(index=False))
    aside = one_of(tune, "of train's studies is", "of train's studies are")
    print(f"{aside} set aside as tune: epochs and thresholds are chosen on that alone")
    shared.print_skipped(skipped)


def prepare(
    data: shared.Data,
    size: shared.Size = 320,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The store's folder; the one in the cache that train takes.")
    ] = None,
    source: shared.Source = None,
    max_bad: shared.MaxBad = 0.05,
    workers: shared.Workers = None,
    as_json: shared.AsJson = False,
):
    """Decode all images once, by all cores.

    Interrupted, it goes on where it was; a second call decodes what is new or has changed.

    \b
    mura prepare MURA-v1.1 --size 320
    """
    from mura_fastai.bars import stderr_bar
    from mura_fastai.data.inspection import limit_bad
    from mura_fastai.data.sources import read_images
    from mura_fastai.text import one_of

    with shared.quiet_import():
        from mura_fastai.data.store import build_store, store_folder

    # Who is in train and valid does not matter to the pixels: `mura train` looks at it.
    images = read_images(
        data, source, max_bad=max_bad, allow_leaks=True, decode=False, progress=stderr_bar("checking images")
    )
    cached, bar, decoded, began = store_folder(images, size), stderr_bar("decoding images"), 0, time.perf_counter()

    def count(done: int, total: int):
        nonlocal decoded
        decoded = done
        if bar:
            bar(done, total)

    store = build_store(images, out or cached, size, workers, count)
    seconds, named = time.perf_counter() - began, set(images.path)
    missing = [s for s in images.attrs["skipped"] if s["reason"] == "missing"]
    bad = [s for s in store.skipped if s["path"] in named]
    limit_bad(missing + bad, len(missing) + len(named), max_bad)
    told = dict(
        store=str(store.path), images=len(named) - len(bad), size=size,
        bytes=(store.path / "pixels.npy").stat().st_size, seconds=seconds,
        images_per_second=decoded / seconds if decoded else None, decoded=decoded,
        skipped=images.attrs["skipped"] + bad,
    )  # fmt: skip
    if as_json:
        shared.print_json(told)
        return
    held = f"{one_of(told['images'], 'image')} of {size} px"
    print(f"{store.path}: {held}; all of the store is {told['bytes'] / 1e9:.2f} GB")
    pace = f", {one_of(round(decoded / seconds), 'image')} a second" if decoded else ""
    print(f"decoded {decoded} in {seconds:.1f} s{pace}; skipped {len(told['skipped'])}")
    shared.print_skipped(told["skipped"])
    if store.path.absolute() == cached:
        print(f"next: mura train {data} --size {size} takes it by itself")
    else:
        print(f"next: mura train {data} --size {size} --store {store.path}")
