"""Reading what was sent: all of it in memory, with an end to everything. Nothing touches the disk."""

from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from mura_fastai.share.app_answers import Sent

MAX_BYTES = 64 * 2**20  # of one study
MAX_FILES = 12  # of one study
MAX_FIELDS = 8  # of the form beside its files
SUFFIXES = (".png", ".jpg", ".jpeg")
_LEFTOVERS = (".DS_Store", "Thumbs.db", "desktop.ini")


class Refused(HTTPException):
    "What was sent cannot be answered: a status, a sentence, and the field or the files that are wrong."

    def __init__(
        self,
        status: int,  # of HTTP
        why: str,  # a sentence with its remedy
        field: str = "",  # of the form
        faults: list = (),  # `BadImage` of each file
    ):
        super().__init__(status, why)
        self.why, self.field, self.faults = why, field, list(faults)


@dataclass(frozen=True)
class Form:
    "What the page's form sends."

    files: list[Sent]
    region: str  # "" where the paths are to tell


class _InMemory(MultiPartParser):
    # Starlette's keeps parts above 1 MB in a temporary file; a body is cut off long before this.
    spool_max_size = 2**40


async def read_form(
    request: Request,  # whose body was not read yet
) -> Form:
    "The files and fields of a multipart form. `Refused` for anything else, and for more than the limits allow."
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise Refused(415, "Images come as a form (multipart/form-data), in fields called file.")
    # One more than allowed, so that it is this function that counts; empty fields of the page's form come along.
    parser = _InMemory(request.headers, request.stream(), max_files=MAX_FILES + 3, max_fields=MAX_FIELDS)
    try:
        got = await parser.parse()
    except (MultiPartException, ClientDisconnect, ValueError) as e:
        if "Too many files" in str(getattr(e, "message", "")):
            raise _too_many() from None
        raise Refused(400, "The form is damaged; send it again.") from None
    try:
        files = [Sent(_utf8(o.filename or ""), await o.read()) for o in got.getlist("file") if not isinstance(o, str)]
    finally:
        await got.close()
    files = [f for f in files if (f.name or f.data) and not _is_leftover(f.name)]
    if len(files) > MAX_FILES:
        raise _too_many()
    if not files:
        raise Refused(422, "No image came along: choose the images of one study.", "file")
    region = got.get("region", "")
    return Form(files, region if isinstance(region, str) else "")


def _too_many() -> Refused:
    return Refused(413, f"More than {MAX_FILES} files: send the images of one study at a time.", "file")


def _utf8(name: str) -> str:
    "A form may name a charset of its own, and UTF-7 among others can hold what no answer in UTF-8 can."
    return name.encode("utf-8", "replace").decode("utf-8")


def _is_leftover(name: str) -> bool:
    "What systems leave in folders beside images."
    last = name.replace("\\", "/").rpartition("/")[2]
    return last.startswith("._") or last in _LEFTOVERS
