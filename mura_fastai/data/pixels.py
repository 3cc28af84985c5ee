"""One file to one grey array. Every rule about what counts as a readable image lives here and nowhere else."""

import errno
import io
import os
import re
import stat
import threading
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile

from ..errors import BadImage, NoMemory

FORMATS = ("PNG", "JPEG", "TIFF", "BMP")  # Pillow's other forty parsers never see a file
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
MIN_SIDE = 32  # px; below this nothing of a bone can be judged
MAX_PIXELS = 50_000_000  # read from the header, so that a bomb is refused before a byte of it is decoded
MAX_BYTES = 8 * MAX_PIXELS + 2**24  # no honest file of so many pixels is larger

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
# What files that are no image tend to begin with, for a reason that helps.
_STRANGERS = ((b"<", "not an image but HTML or XML"), (b"GIF8", "a GIF"), (b"%PDF", "a PDF"), (b"PK\x03\x04", "a ZIP"))


class _Strict:
    """Holds Pillow's lenient switch off while any thread of ours decodes, and sets it back after the last one.

    Other libraries set `ImageFile.LOAD_TRUNCATED_IMAGES` for the whole process; half a radiograph, its lower half
    flat grey, would then pass for a whole one.
    """

    def __init__(self):
        self.lock, self.readers, self.was = threading.Lock(), 0, False

    def __enter__(self):
        with self.lock:
            self.was = self.was or ImageFile.LOAD_TRUNCATED_IMAGES
            ImageFile.LOAD_TRUNCATED_IMAGES = False
            self.readers += 1

    def __exit__(self, *_):
        with self.lock:
            self.readers -= 1
            if self.readers == 0 and self.was:
                ImageFile.LOAD_TRUNCATED_IMAGES, self.was = True, False


_strict = _Strict()
if hasattr(os, "register_at_fork"):  # a loader's worker must not inherit a lock that a thread of its parent held
    os.register_at_fork(after_in_child=_strict.__init__)


def _read_bytes(path) -> bytes:
    "The whole file. Only regular files: a named pipe would wait for ever."
    try:
        info = os.stat(path)
        if not stat.S_ISREG(info.st_mode):
            raise BadImage(path, "not a file")
        if info.st_size > MAX_BYTES:
            raise BadImage(path, f"too large ({info.st_size / 1e6:.0f} MB)")
        with open(path, "rb") as f:
            return f.read()
    except MemoryError:
        raise NoMemory(path) from None
    except (FileNotFoundError, NotADirectoryError):
        raise BadImage(path, "missing") from None
    except PermissionError:
        raise BadImage(path, "no permission to read it") from None
    except (OSError, ValueError) as e:  # ValueError: a null byte in the name
        if getattr(e, "errno", None) == errno.ENOMEM:
            raise NoMemory(path) from None
        raise (e if isinstance(e, BadImage) else BadImage(path, f"cannot be read ({e})")) from None


def _check_size(path, width: int, height: int):
    "Refuse bombs and crumbs by what the header says."
    if width * height > MAX_PIXELS:
        raise BadImage(path, f"too many pixels ({width} x {height}; at most {MAX_PIXELS // 10**6} million)")
    if min(width, height) < MIN_SIDE:
        raise BadImage(path, f"too small ({width} x {height} px; at least {MIN_SIDE} a side)")


def _check_png(path, data: bytes):
    "Walk the chunks: Pillow skips the checksum of the pixels and does not miss the end marker."
    if len(data) < 33:
        raise BadImage(path, "truncated")
    _check_size(path, int.from_bytes(data[16:20]), int.from_bytes(data[20:24]))
    view, at = memoryview(data), len(_PNG_MAGIC)
    while True:
        end = at + 12 + int.from_bytes(view[at : at + 4])
        if at + 12 > len(view) or end > len(view):
            raise BadImage(path, "truncated")
        if zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(view[end - 4 : end]):
            raise BadImage(path, "damaged (bad checksum)")
        if view[at + 4 : at + 8] == b"IEND":
            return
        at = end


def _stranger(data: bytes, formats: tuple) -> str:
    "Why Pillow did not know the file."
    head = data[:64].removeprefix(b"\xef\xbb\xbf").lstrip()
    if data[128:132] == b"DICM":
        return "a DICOM file; convert it to PNG first"
    known = [why for start, why in _STRANGERS if head.startswith(start)]
    return known[0] if known else f"not a {', '.join(formats[:-1])} or {formats[-1]} image"


def _rescale_16(a: np.ndarray) -> np.ndarray:
    """16-bit grey to 8 bits: the file's own 0.1st to 99.9th percentile becomes 0 to 255.

    Most such radiographs hold 10 or 12 bits in 16, so dividing by 256 would leave them black; and with the plain
    minimum and maximum one dead pixel or one burnt-in marker would do the same.
    """
    below = np.cumsum(np.bincount(a.ravel(), minlength=65536))
    lo, hi = np.searchsorted(below, (0.001 * a.size, 0.999 * a.size))
    if hi <= lo:
        lo, hi = int(a.min()), int(a.max())
    table = (np.arange(65536) - float(lo)) * (255 / max(hi - lo, 1))
    return np.clip(table + 0.5, 0, 255).astype(np.uint8)[a]


def _to_grey(path, im: Image.Image) -> Image.Image | np.ndarray:
    "Any mode that a radiograph comes in to 8-bit grey."
    if im.mode.startswith("I;16"):
        return _rescale_16(np.asarray(im).astype(np.uint16))
    if im.mode == "F":
        raise BadImage(path, "32-bit float pixels; save it as 8- or 16-bit grey")
    if im.mode == "I":
        raise BadImage(path, "32-bit integer pixels; save it as 8- or 16-bit grey")
    if im.has_transparency_data:
        rgba = im.convert("RGBA")  # black is what surrounds a radiograph, so it shows through
        im = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    return im if im.mode == "L" else im.convert("RGB").convert("L") if im.mode == "CMYK" else im.convert("L")


def decode_file(
    path: str | Path,  # a PNG, JPEG, TIFF or BMP file
) -> tuple[np.ndarray, str]:  # uint8, height x width; the mode that the file had
    "`decode_grey` of a file. Raises `BadImage` and `NoMemory`."
    return decode_grey(_read_bytes(path), path)


def decode_grey(
    data: bytes,  # what a file holds
    path: str | Path,  # the file's name, for messages alone: nothing is opened
    formats: tuple = FORMATS,  # Pillow's names of those that are let in
) -> tuple[np.ndarray, str]:  # uint8, height x width; the mode that the file had, such as "RGB" or "I;16 turned"
    "`read_grey` of bytes in memory, by the same rules. Raises `BadImage`, and `NoMemory`: no fault of the file."
    for _ in range(2):  # the second time other threads may have given back what was lacking
        try:
            return _grey_of(data, path, formats)
        except NoMemory:
            if not _has_room():
                raise
    raise BadImage(path, "damaged (it asks for more memory than an image needs)")


def _has_room() -> bool:
    "Whether there is memory for the largest image. A damaged TIFF, too, is told of as too little of it."
    try:
        np.empty(4 * MAX_PIXELS, np.uint8)
    except MemoryError:
        return False
    return True


def _grey_of(data: bytes, path, formats: tuple) -> tuple[np.ndarray, str]:
    if not data:
        raise BadImage(path, "empty (0 bytes)")
    if data.startswith(_PNG_MAGIC):
        _check_png(path, data)
    try:
        with _strict, Image.open(io.BytesIO(data), formats=formats) as im:
            _check_size(path, *im.size)
            if getattr(im, "n_frames", 1) > 1:
                raise BadImage(path, f"several frames ({im.n_frames})")
            mode = im.mode
            if mode == "RGB" and im.tile and ";16" in str(im.tile[0][3]):
                raise BadImage(path, "16-bit colour; save it as 8- or 16-bit grey")
            im.draft("L", im.size)  # a JPEG gives its luminance straight away, in two thirds of the time
            im.load()
            grey = _to_grey(path, im)
            turn = _TURN.get(im.getexif().get(0x0112))
        if turn is not None:
            grey, mode = Image.fromarray(np.asarray(grey)).transpose(turn), f"{mode} turned"
        return np.array(grey), mode
    except BadImage:
        raise
    except Image.UnidentifiedImageError:
        raise BadImage(path, _stranger(data, formats)) from None
    except Exception as e:  # Pillow's parsers raise a dozen types (struct.error, SyntaxError, ...) for a broken file
        # What Pillow's decoders in C say of a want of memory is a number, or its name.
        if isinstance(e, MemoryError) or re.search("error -9|out of memory", str(e)):
            raise NoMemory(path) from None
        reason = "truncated" if "truncated" in str(e) else f"damaged ({type(e).__name__}: {e})"
        raise BadImage(path, reason) from None


def read_grey(
    path: str | Path,  # a PNG, JPEG, TIFF or BMP file
) -> np.ndarray:  # uint8, height x width
    """Read one image as grey, upright by its EXIF tag, transparency on black, 16 bits rescaled by its own percentiles.

    Raises `BadImage` for what cannot be used whole: missing, empty, truncated or damaged files (also where another
    library has told Pillow to be lenient), other formats, several frames, float pixels, a side under 32 px, more
    than 50 megapixels. `NoMemory` where this machine has none left.
    """
    return decode_file(path)[0]


def pad_square(
    a: np.ndarray,  # uint8, height x width
    size: int,  # px
) -> np.ndarray:  # uint8, size x size
    """Scale the longer side to `size`, aspect kept, centred on black.

    Black is what collimated radiographs end in; centred, so that a lateral flip or a rotation moves no border.
    """
    h, w = a.shape
    scale = size / max(h, w)
    new_h, new_w = max(1, round(h * scale)), max(1, round(w * scale))
    if (new_h, new_w) != (h, w):
        # Pillow widens the bilinear filter when it shrinks, so nothing aliases; the gap lets boxes do the rough part.
        a = np.asarray(Image.fromarray(a).resize((new_w, new_h), Image.Resampling.BILINEAR, reducing_gap=3.0))
    out = np.zeros((size, size), np.uint8)
    top, left = (size - new_h) // 2, (size - new_w) // 2
    out[top : top + new_h, left : left + new_w] = a
    return out
