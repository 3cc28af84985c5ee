"""What a bad file gets: a plain reason, always before training. All files are made here, for real."""

import contextlib
import io
import os
import struct
import threading
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from mura_fastai.data import pixels
from mura_fastai.data.inspection import check_images, inspect_images, limit_bad
from mura_fastai.data.pixels import decode_grey, pad_square, read_grey
from mura_fastai.errors import BadImage, InputError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MURA_CACHE", str(tmp_path / "cache"))


def picture(height=60, width=80, seed=0):
    "Smooth, so that JPEG keeps it; no two corners alike."
    y, x = np.mgrid[:height, :width]
    rng = np.random.default_rng(seed)
    wave = np.sin(x / rng.uniform(6, 12)) + np.cos(y / rng.uniform(6, 12)) + 2 * x / width + y / height
    return np.uint8(255 * (wave - wave.min()) / np.ptp(wave))


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, raw: bytes, depth=8, colour=0, kept=1.0) -> bytes:
    "A PNG with sound checksums and end, of whose compressed rows only a share is kept."
    head, body = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0), zlib.compress(raw, 9)
    body = body[: int(len(body) * kept)]
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def encoded(a, kind, **options) -> bytes:
    out = io.BytesIO()
    (a if isinstance(a, Image.Image) else Image.fromarray(a)).save(out, kind, **options)
    return out.getvalue()


def reason(path) -> str:
    with pytest.raises(BadImage) as e:
        read_grey(path)
    assert e.value.path == str(path)
    return e.value.reason


A = picture()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_grey_comes_back_exactly(tmp_path, kind):
    path = tmp_path / "a.png"  # the content decides, not the name
    path.write_bytes(encoded(A, kind))
    got = read_grey(path)
    assert got.dtype == np.uint8 and np.array_equal(got, A)


def test_bytes_in_memory_follow_the_rules_of_files(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "a.tif")
    data = (tmp_path / "a.tif").read_bytes()
    grey, mode = decode_grey(data, "a name that is nowhere.tif")
    assert mode == "L" and np.array_equal(grey, read_grey(tmp_path / "a.tif"))
    with pytest.raises(BadImage, match="not a PNG or JPEG image"):
        decode_grey(data, "a.tif", formats=("PNG", "JPEG"))
    for cut, why in ((0, "empty"), (len(data) // 2, "truncated|damaged")):
        with pytest.raises(BadImage, match=why):
            decode_grey(data[:cut], "a.tif")


@pytest.mark.parametrize(
    "mode", ["RGB", "RGBA", "LA", "P", "CMYK JPEG", "RGB JPEG", "L JPEG", "progressive JPEG", "CMYK TIFF", "LZW TIFF"]
)
def test_every_usual_mode_becomes_the_same_grey(tmp_path, mode):
    mode, _, kind = mode.partition(" ")
    im, options = Image.fromarray(A), {}
    if kind == "JPEG":
        options = {"quality": 98, "progressive": mode == "progressive"}
    if mode == "LZW":
        options = {"compression": "tiff_lzw"}
    im = (
        im.convert("RGB").quantize(256)
        if mode == "P"
        else im.convert(mode)
        if mode in ("RGB", "RGBA", "LA", "CMYK")
        else im
    )
    path = tmp_path / "a"
    path.write_bytes(encoded(im, kind or "PNG", **options))
    difference = np.abs(read_grey(path).astype(int) - A)
    assert difference.max() <= (6 if kind == "JPEG" or mode == "P" else 1)


def test_one_bit_becomes_black_and_white(tmp_path):
    Image.fromarray(A > 128).save(tmp_path / "a.png")
    assert np.array_equal(read_grey(tmp_path / "a.png"), np.where(A > 128, 255, 0))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_black(tmp_path, mode):
    im = Image.new("RGBA", (40, 40), (255, 255, 255, 0))
    im.paste((200, 200, 200, 255), (0, 0, 40, 20))
    im = im.convert("LA") if mode == "LA" else im.quantize(4) if mode == "P" else im
    im.save(tmp_path / "a.png")
    got = read_grey(tmp_path / "a.png")
    assert abs(int(got[5, 5]) - 200) < 4 and got[30, 30] == 0


@pytest.mark.parametrize("top", [1023, 4095, 65535])
def test_16_bit_keeps_its_contrast_whatever_part_of_the_range_it_fills(tmp_path, top):
    deep = (A.astype(float) / 255 * top).astype(np.uint16)
    deep[0, 0] = 65535  # a dead pixel does not leave the rest black
    Image.fromarray(deep).save(tmp_path / "a.png")
    Image.fromarray(deep).save(tmp_path / "a.tif")
    got = read_grey(tmp_path / "a.png")
    assert np.array_equal(got, read_grey(tmp_path / "a.tif"))
    assert np.corrcoef(got.ravel()[1:], A.ravel()[1:])[0, 1] > 0.999
    assert got.min() == 0 and got.max() == 255 and abs(got.mean() - A.mean()) < 8
    assert (np.diff(got.ravel()[1:][np.argsort(deep.ravel()[1:], kind="stable")].astype(int)) >= 0).all()


def test_flat_16_bit_is_black_not_an_error(tmp_path):
    Image.fromarray(np.full((40, 40), 700, np.uint16)).save(tmp_path / "a.png")
    assert not read_grey(tmp_path / "a.png").any()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(2, 9))
def test_exif_rotation_is_applied(tmp_path, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a"
    path.write_bytes(encoded(A, kind, exif=exif, **({"quality": 98} if kind == "JPEG" else {})))
    # the definition, independent of Pillow: where the stored first row and column lie in the upright picture
    upright = {2: A[:, ::-1], 3: A[::-1, ::-1], 4: A[::-1], 5: A.T, 6: A.T[:, ::-1], 7: A.T[::-1, ::-1], 8: A.T[::-1]}
    got = read_grey(path)
    assert got.shape == upright[orientation].shape
    assert np.abs(got.astype(int) - upright[orientation]).max() <= 6


@pytest.mark.parametrize("lenient", [False, True])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "LZW"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
def test_truncated_is_refused_even_where_pillow_was_told_to_be_lenient(tmp_path, monkeypatch, lenient, kind, kept):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    noise = np.random.default_rng(0).integers(0, 255, (100, 100), dtype=np.uint8)
    options = {"LZW": {"compression": "tiff_lzw"}}.get(kind, {})
    data = encoded(noise, kind.replace("LZW", "TIFF"), **options)
    path = tmp_path / "a"
    path.write_bytes(data[: int(len(data) * kept)])
    why = reason(path)
    assert why == "truncated" or (kind in ("TIFF", "LZW") and ("damaged" in why or "not a" in why))
    assert lenient == ImageFile.LOAD_TRUNCATED_IMAGES, "the other library finds its switch as it was"


def test_leniency_stays_off_in_all_threads_until_the_last_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    whole, half = tmp_path / "whole.jpg", tmp_path / "half.jpg"
    data = encoded(picture(300, 300), "JPEG")
    whole.write_bytes(data)
    half.write_bytes(data[: len(data) // 2])
    taken = []

    def read():
        for _ in range(20):
            read_grey(whole)
            with contextlib.suppress(BadImage):
                taken.append(read_grey(half))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not taken and ImageFile.LOAD_TRUNCATED_IMAGES


def test_a_png_that_lacks_only_its_end_is_truncated(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(A, "PNG")[:-12])
    assert reason(tmp_path / "a.png") == "truncated"


@pytest.mark.parametrize("lenient", [False, True])
def test_a_png_whose_pixels_stop_early_is_refused(tmp_path, monkeypatch, lenient):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    noise = np.random.default_rng(0).bytes(64)
    (tmp_path / "a.png").write_bytes(png(64, 64, b"".join(b"\0" + noise for _ in range(64)), kept=0.5))
    assert reason(tmp_path / "a.png") == "truncated"


def test_a_flipped_bit_in_the_pixels_of_a_png_is_found(tmp_path):
    data = bytearray(png(64, 64, b"".join(b"\0" + bytes(range(64)) for _ in range(64))))
    data[data.index(b"IEND") - 8 - 1] ^= 1  # the last byte of the chunk's checksum
    (tmp_path / "a.png").write_bytes(data)
    assert reason(tmp_path / "a.png") == "damaged (bad checksum)"


def test_a_bomb_is_refused_from_its_header(tmp_path, monkeypatch):
    bomb = png(12_000, 12_000, bytes(12_000 * 12_001 // 8 + 12_000), depth=1)
    assert len(bomb) < 50_000
    (tmp_path / "bomb.png").write_bytes(bomb)
    Image.new("1", (8000, 7000)).save(tmp_path / "bomb.tif", compression="group4")
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    assert "too many pixels (12000 x 12000" in reason(tmp_path / "bomb.png")
    assert "too many pixels (8000 x 7000" in reason(tmp_path / "bomb.tif")


def test_several_frames_are_refused(tmp_path):
    frames = [Image.fromarray(picture(seed=s)) for s in range(3)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    assert "several frames (3)" in reason(tmp_path / "a.png")
    assert "several frames (3)" in reason(tmp_path / "a.tif")


def test_pixels_that_have_no_sure_grey_are_refused(tmp_path):
    Image.fromarray(A.astype(np.float32)).save(tmp_path / "f.tif")
    Image.fromarray(A.astype(np.int32)).save(tmp_path / "i.tif")
    rows = b"".join(b"\0" + bytes(64 * 6) for _ in range(64))
    (tmp_path / "c.png").write_bytes(png(64, 64, rows, depth=16, colour=2))
    assert "32-bit float" in reason(tmp_path / "f.tif")
    assert "32-bit integer" in reason(tmp_path / "i.tif")
    assert "16-bit colour" in reason(tmp_path / "c.png")


def test_what_is_no_image_is_named_for_what_it_is(tmp_path):
    cases = {
        "empty.png": (b"", "empty (0 bytes)"),
        "page.png": (b"<!DOCTYPE html><html>login</html>", "HTML"),
        "page2.png": (b"\xef\xbb\xbf\n<html>", "HTML"),
        "a.gif.png": (encoded(A, "GIF"), "GIF"),
        "d.png": (bytes(128) + b"DICM" + bytes(500), "DICOM"),
        "noise.jpg": (bytes(range(256)), "not a PNG, JPEG, TIFF or BMP"),
        "small.png": (encoded(A[:31], "PNG"), "too small (80 x 31"),
        "head.png": (encoded(A, "PNG")[:20], "truncated"),
    }
    for name, (data, expected) in cases.items():
        (tmp_path / name).write_bytes(data)
        assert expected in reason(tmp_path / name), name
    assert reason(tmp_path / "nowhere.png") == "missing"
    assert reason("a\0b.png") and reason(tmp_path) == "not a file"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    assert reason(tmp_path / "a.png") == "not a file"


@pytest.mark.parametrize("name", ["<script>alert(1)<.png", "=cmd|' '!A1.png", "a b\n.png", "ä–骨.png", b"\xff\xfe.png"])
def test_any_file_name_works(tmp_path, name):
    path = os.path.join(str(tmp_path), os.fsdecode(name))
    try:
        with open(path, "wb") as f:
            f.write(encoded(A, "PNG"))
    except OSError:
        pytest.skip("this file system does not take the name")
    assert np.array_equal(read_grey(path), A)
    assert inspect_images([path]).reason[0] == ""


def test_pad_square_keeps_aspect_and_centres_on_black():
    wide = np.full((50, 100), 200, np.uint8)
    out = pad_square(wide, 64)
    assert out.shape == (64, 64) and out.dtype == np.uint8
    rows = np.flatnonzero(out.any(axis=1))
    assert (rows[0], rows[-1]) == (16, 47) and (out[16:48] == 200).all()
    assert np.array_equal(pad_square(wide.T, 64), out.T)
    assert np.array_equal(pad_square(wide[:, :50], 50), wide[:, :50])
    assert pad_square(np.full((4000, 33), 9, np.uint8), 32).any(), "even a strip keeps one column"


def test_pad_square_does_not_alias():
    stripes = np.tile(np.uint8([0, 255]), (512, 256))
    assert np.ptp(pad_square(stripes, 100)[:, 5:-5]) < 30


def test_inspection_decodes_once_and_again_only_what_changed(tmp_path, monkeypatch):
    for k in range(3):
        Image.fromarray(picture(seed=k)).save(tmp_path / f"{k}.png")
    (tmp_path / "3.png").write_bytes(b"<html>")
    paths = [str(tmp_path / f"{k}.png") for k in range(5)]
    decoded, real = [], pixels.decode_file
    monkeypatch.setattr(pixels, "decode_file", lambda p: decoded.append(p) or real(p))
    first = inspect_images(paths, look=True)
    assert sorted(decoded) == paths
    assert list(first.reason) == ["", "", "", "not an image but HTML or XML", "missing"]
    assert (first.width[0], first.height[0], first["mode"][0], len(first.look[0])) == (80, 60, "L", 64 * 64)
    assert first.pixel_hash[:3].nunique() == 3
    decoded.clear()
    assert first.equals(inspect_images(paths, look=True)) and decoded == paths[4:]
    Image.fromarray(picture(seed=9)).save(tmp_path / "1.png")
    os.utime(tmp_path / "1.png", ns=(1, 1))
    decoded.clear()
    again = inspect_images(paths, look=True)
    assert decoded == [paths[1], paths[4]] and again.pixel_hash[1] != first.pixel_hash[1]
    decoded.clear()
    inspect_images(paths[:2], look=True), inspect_images(paths, look=True)
    assert decoded == paths[4:], "asking for a part forgets nothing"


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 nonsense", None])
def test_a_damaged_cache_is_ignored_and_written_anew(tmp_path, damage):
    Image.fromarray(A).save(tmp_path / "a.png")
    first = inspect_images([tmp_path / "a.png"])
    (kept,) = (tmp_path / "cache").rglob("*.npz")
    whole = kept.read_bytes()
    kept.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    assert first.equals(inspect_images([tmp_path / "a.png"]))
    assert kept.read_bytes() == whole
    assert [p.name for p in kept.parent.iterdir()] == [kept.name], "no temporary file is left"


def test_a_cache_that_cannot_be_written_is_no_fault(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MURA_CACHE", str(tmp_path / "file"))
    Image.fromarray(A).save(tmp_path / "a.png")
    assert inspect_images([tmp_path / "a.png"]).reason[0] == ""


def test_same_pixels_in_another_format_have_the_same_hash(tmp_path):
    Image.fromarray(A).save(tmp_path / "a.png")
    Image.fromarray(A).convert("RGB").save(tmp_path / "b.bmp")
    Image.fromarray(A.reshape(80, 60)).save(tmp_path / "c.png")
    a, b, c = inspect_images([tmp_path / n for n in ("a.png", "b.bmp", "c.png")]).pixel_hash
    assert a == b != c


def test_check_names_the_bad_ones_and_counts_aloud(tmp_path):
    Image.fromarray(A).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    told = []
    bad = check_images([tmp_path / "a.png", tmp_path / "b.png"], progress=lambda *n: told.append(n))
    assert bad == [{"path": str(tmp_path / "b.png"), "reason": "empty (0 bytes)"}]
    assert told == [(1, 2), (2, 2)]


def test_too_many_bad_files_stop_with_names_and_the_remedy():
    bad = [{"path": f"/x/{k}.png", "reason": "truncated"} for k in range(6)]
    limit_bad(bad[:5], 100, 0.05)
    with pytest.raises(
        InputError, match=r"6 of 100 .*--max-bad 0.05: /x/0.png \(truncated\);.* 3 more.*--max-bad 0.06"
    ):
        limit_bad(bad, 100, 0.05)
    limit_bad(bad, 100, 0.06)


def test_a_damaged_tiff_that_asks_for_all_memory_is_left_out_and_stops_nothing(tmp_path):
    "Pillow tells of it as of a want of memory, which is nobody's fault and stops a command."
    tags = [(256, 64), (257, 64), (258, 8), (259, 5), (262, 1), (277, 1), (322, 1 << 30), (323, 1 << 30)]
    tags += [(324, 8), (325, 100)]
    fields = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    whole = b"II*\0" + struct.pack("<I", 108) + bytes(100) + struct.pack("<H", len(tags)) + fields + bytes(4)
    (tmp_path / "a.tif").write_bytes(whole)
    Image.fromarray(picture()).save(tmp_path / "b.png")
    reasons = inspect_images([tmp_path / "a.tif", tmp_path / "b.png"]).reason.tolist()
    assert reasons == ["damaged (it asks for more memory than an image needs)", ""]
