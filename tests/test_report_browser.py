"The report in a real browser: silent, offline, readable in light and dark, on a phone and wide, and on A4 paper."

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from browser import NARROWEST, WIDE

from mura_fastai.share import report
from mura_fastai.share.pdf import print_pdf
from mura_fastai.share.report import write_report

pytestmark = pytest.mark.slow
PAPER = "getComputedStyle(document.body).backgroundColor"


@pytest.fixture(scope="module")
def files(run, tmp_path_factory):
    "Reports of one run and of two, and one without radiographs."
    root = tmp_path_factory.mktemp("reports")
    other = Path(shutil.copytree(run, root / "a second run with quite a long name, made on another day"))
    table, rng = pd.read_csv(other / "predictions.csv"), np.random.default_rng(0)
    table["p_abnormal"] = np.clip(table.p_abnormal + rng.normal(0, 0.2, len(table)), 0, 1)
    table.to_csv(other / "predictions.csv", index=False)
    write_report(run, root / "one.html", k=6)
    with pytest.MonkeyPatch.context() as m:
        m.setattr(report, "_audit", lambda *a: report.InputError("left out by the test"))
        write_report(run, root / "plain.html", pixels=False)
        # the plots are looked at in the report of one run
        m.setattr(report, "plots_of", lambda facts: {"errors": [], "trust": [], "training": []})
        write_report([run, other], root / "two.html", k=6)
    return {name: root / f"{name}.html" for name in ("one", "two", "plain")}


def show(watch, file, viewport=WIDE, theme="light", **kwargs):
    seen = watch(viewport, theme, **kwargs)
    seen.page.goto(file.as_uri())
    return seen


LOOKS = [("one", NARROWEST, "light"), ("one", NARROWEST, "dark"), ("one", WIDE, "light"), ("one", WIDE, "dark"),
         ("two", NARROWEST, "dark")]  # fmt: skip


@pytest.mark.parametrize("name, viewport, theme", LOOKS)
def test_it_is_silent_and_readable(watch, files, name, viewport, theme):
    seen = show(watch, files[name], viewport, theme)
    seen.page.evaluate("document.querySelectorAll('details').forEach(o => o.open = true)")
    assert not seen.problems
    assert [r for r in seen.requests if not r.startswith("data:")] == [files[name].as_uri()]
    assert seen.overflow() <= 0
    assert not seen.violations()


def test_it_opens_offline_and_needs_no_script(watch, files):
    seen = show(watch, files["one"], offline=True, java_script_enabled=False)
    assert seen.page.locator("article img").count() > 0 and not seen.problems


def test_every_picture_is_shown(watch, files):
    seen = show(watch, files["one"])
    broken = "[...document.images].filter(o => !o.complete || !o.naturalWidth).length"
    assert seen.page.evaluate(broken) == 0
    widths = "[...document.querySelectorAll('.chart svg')].map(o => o.getBoundingClientRect().width)"
    assert min(seen.page.evaluate(widths)) > 300


def test_the_table_of_contents_leads_everywhere(watch, files):
    seen = show(watch, files["two"])
    for link in seen.page.locator(".toc a").all():
        target = link.get_attribute("href")
        link.click()
        assert seen.page.url.endswith(target)
        top = seen.page.evaluate("id => document.getElementById(id).getBoundingClientRect().top", target[1:])
        bottom = seen.page.evaluate("innerHeight + scrollY >= document.documentElement.scrollHeight - 2")
        assert abs(top) < 60 or bottom


def test_themes_differ_and_paper_is_always_white(watch, files):
    looks = {theme: show(watch, files["one"], theme=theme) for theme in ("light", "dark")}
    grounds = {theme: seen.page.evaluate(PAPER) for theme, seen in looks.items()}
    assert grounds["light"] == "rgb(255, 255, 255)" != grounds["dark"]
    letters = "getComputedStyle(document.querySelector('.chart svg text')).fill"
    assert len({seen.page.evaluate(letters) for seen in looks.values()}) == 2
    looks["dark"].page.emulate_media(media="print")
    assert looks["dark"].page.evaluate(PAPER) == grounds["light"]


def test_heat_maps_can_be_switched_off_and_paper_shows_both(watch, files):
    page = show(watch, files["one"], java_script_enabled=True).page
    grey, warm = page.locator("img.grey").first, page.locator("img.heat").first
    assert grey.is_visible() and warm.is_visible()
    page.get_by_label("radiographs").check()
    assert grey.is_visible() and not warm.is_visible()
    page.get_by_label("heat maps").check()
    assert warm.is_visible() and not grey.is_visible()
    page.emulate_media(media="print")
    assert grey.is_visible() and warm.is_visible()


def test_a_narrow_screen_scrolls_tables_in_their_own_box(watch, files):
    page = show(watch, files["one"], NARROWEST).page
    box = page.locator("#scores .wide").first
    assert box.evaluate("o => o.scrollWidth > o.clientWidth")
    box.evaluate("o => o.scrollLeft = 200")
    name = page.locator("#scores tbody th").first.bounding_box()
    assert name["x"] >= 0, "the name of the row stays in sight"


@pytest.mark.parametrize("name", ["one", "two", "plain"])
def test_it_prints_to_whole_a4_pages(chromium, files, tmp_path, name):
    file = print_pdf(files[name], tmp_path / "a.pdf")
    told = file.read_bytes()
    assert told.startswith(b"%PDF") and [p.name for p in tmp_path.iterdir()] == ["a.pdf"]
    boxes = re.findall(rb"/MediaBox\s*\[\s*0 0 ([\d.]+) ([\d.]+)\s*\]", told)
    assert len(boxes) > 1
    for width, height in boxes:
        assert abs(float(width) - 595.3) < 1.5 and abs(float(height) - 841.9) < 1.5
    if shutil.which("pdftotext"):
        words = subprocess.run(["pdftotext", "-layout", file, "-"], capture_output=True, text=True).stdout
        # what is folded on the screen is open on paper
        assert re.search(rf"1 ?/ ?{len(boxes)}\b", words) and "All settings" in words and "max bad" in words


def test_the_report_prints_itself(chromium, run, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "_audit", lambda *a: report.InputError("left out by the test"))
    made = write_report(run, tmp_path / "a.html", pixels=False, pdf=True)
    assert [p.name for p in made] == ["a.html", "a.pdf"] and made[1].read_bytes().startswith(b"%PDF")
