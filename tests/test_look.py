"The frame of every document: escaped, without a request, readable in light and dark, on a phone and on paper."

import pytest
from browser import NARROWEST, WIDE
from fastcore.xml import H1, A, Button, Caption, Code, Div, P, Small, Table, Td, Th, Tr

from mura_fastai.share.look import document, html

HOSTILE = [
    "<script>document.title='taken'</script>",
    "\"><img src=x onerror=document.title='taken'>",
    "bytes \udcff\udce9",
]


def sample():
    "A document with everything that the sheet dresses."
    cells = Tr(Th("XR_WRIST", scope="row"), Td("0.62 [0.42, 0.78]", cls="number"))
    return document(
        "A run",
        H1("What a run tells"),
        P("Radiographs are inside.", cls="notice"),
        P(A("a link", href="#scores"), " and ", Code("mura evaluate"), " ", Small("aside")),
        Div(*(Div(n, cls=f"tile {n}") for n in ("missed", "alarm", "good")), cls="tiles"),
        Div(Table(Caption("Scores"), cells, id="scores"), cls="wide", tabindex="0", role="region", aria_label="Scores"),
        Button("Ask", cls="main"),
        Button("Clear"),
        *map(P, HOSTILE),
        *(P(n, title=n) for n in HOSTILE),
        P("x" * 400),
    )


def test_what_comes_from_outside_is_text():
    written = html(*(P(n, title=n) for n in HOSTILE))
    assert "<script" not in written and "<img" not in written
    written.encode("utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [NARROWEST, WIDE], ids=["phone", "wide"])
def test_every_document_is_readable_safe_and_silent(watch, tmp_path, viewport, theme):
    (tmp_path / "a.html").write_text(sample(), encoding="utf-8")
    seen = watch(viewport, theme)
    seen.page.goto((tmp_path / "a.html").as_uri())
    assert seen.page.title() == "A run" and not seen.problems
    assert len(seen.requests) == 1, "nothing but the file itself is asked for"
    assert seen.overflow() <= 0
    assert not seen.violations()


@pytest.mark.slow
def test_paper_is_white_in_a_dark_room(watch, tmp_path):
    (tmp_path / "a.html").write_text(sample(), encoding="utf-8")
    seen = watch(WIDE, "dark")
    seen.page.goto((tmp_path / "a.html").as_uri())
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = seen.page.evaluate(ground)
    seen.page.emulate_media(media="print")
    assert seen.page.evaluate(ground) == "rgb(255, 255, 255)" != dark
