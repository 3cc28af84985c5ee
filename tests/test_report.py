"One file that tells all of a run: it asks for nothing, gives nobody away, and says what metrics.json says."

import json
import os
import re
import shlex
import shutil
from html.parser import HTMLParser
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest
import yaml
from fastcore.xml import Div
from matplotlib.figure import Figure

from mura_fastai.errors import InputError
from mura_fastai.results.experiment import train
from mura_fastai.results.scoring import decision_of
from mura_fastai.share import pdf, report
from mura_fastai.share.charts import chart, inline_svg
from mura_fastai.share.look import html
from mura_fastai.share.report import write_report
from mura_fastai.share.report_card import in_lines
from mura_fastai.text import with_interval

SECTIONS = ["scores", "errors", "trust", "losses", "shortcuts", "training", "data", "card", "reproduce"]
HOSTILE = [
    "<script>alert(1)<script>", '"><img src=x onerror=alert(1)>', "=cmd|' C'!A0", "$x$ \\frac{", "bytes \udce9\udcff",
    "'><svg onload=alert(1)>", "{{7*7}}</style>",
]  # fmt: skip


class Page(HTMLParser):
    "What a test looks for in a document: elements with their attributes, ids, visible text."

    def __init__(self, file):
        super().__init__(convert_charrefs=True)
        self.elements, self.words, self.silent, self.rows, self.in_cell = [], [], 0, [], False
        self.source = Path(file).read_text(encoding="utf-8")
        self.feed(self.source)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.silent += tag == "style"
        self.rows += [[]] if tag == "tr" else []
        if tag in ("th", "td"):
            self.in_cell = True
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self.silent -= tag == "style"
        self.in_cell &= tag not in ("th", "td")

    def handle_data(self, data):
        if not self.silent:
            self.words.append(data)
            if self.in_cell:
                self.rows[-1][-1] += data

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]

    @property
    def ids(self):
        return [attrs["id"] for _, attrs in self.elements if "id" in attrs]

    @property
    def radiographs(self):
        return [a for a in self.all("img") if a.get("alt") and a["src"].startswith("data:image/jpeg")]


@pytest.fixture(scope="module")
def made(run, tmp_path_factory):
    "The report of the shared run, which nobody changes."
    out = tmp_path_factory.mktemp("reports") / "one.html"
    assert write_report(run, out, k=4) == [out]
    return out


@pytest.fixture(scope="module")
def page(made):
    return Page(made)


@pytest.fixture
def no_audit(monkeypatch):
    "The audit of shortcuts takes most of the time of a report. `made` has it, and so has the report of several runs."

    def left_out(*_):
        raise InputError("left out by the test")

    monkeypatch.setattr(report, "shortcuts", left_out)


@pytest.fixture
def quick(monkeypatch, no_audit):
    "Without plots as well."
    monkeypatch.setattr(report, "plots_of", lambda facts: {"errors": [], "trust": [], "training": []})


@pytest.fixture
def own(run, tmp_path, quick):
    "A copy of the run that a test may change; its reports come without audit and plots."
    return Path(shutil.copytree(run, tmp_path / "own"))


def edit(file, change):
    told = yaml.safe_load(file.read_text(encoding="utf-8"))
    change(told)
    file.write_text(yaml.safe_dump(told, sort_keys=False), encoding="utf-8")


def rewrite(file, change):
    table = pd.read_csv(file, keep_default_na=False)
    change(table).to_csv(file, index=False, errors="surrogateescape")


# ---------------------------------------------------------------- one file


def inside_only(page):
    "No element asks for anything that is not in the file."
    for tag, attrs in page.elements:
        for key, value in attrs.items():
            assert not key.startswith("on"), (tag, key)
            if key in ("src", "href", "xlink:href", "srcset", "data", "action", "poster", "formaction"):
                assert value.startswith(("data:image/", "#")), (tag, key, value[:80])
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.elements}
    policies = [a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert not re.search(r"url\((?!#|\"?data:)|@import", page.source)


def test_it_holds_all_that_it_shows(page):
    inside_only(page)
    assert page.radiographs and page.all("svg")


def test_its_parts_are_there_and_found_by_their_links(page):
    assert len(page.ids) == len(set(page.ids))
    sections = [a["id"] for a in page.all("section")]
    assert sections == SECTIONS
    links = [a["href"][1:] for a in page.all("a")]
    assert links == SECTIONS and set(links) <= set(page.ids)
    referred = re.findall(r'href="#([^"]+)"', page.source) + re.findall(r"url\(#([^)]+)\)", page.source)
    assert set(referred) <= set(page.ids)


def test_it_says_at_its_top_what_it_must_not_be_used_for(page):
    top = page.text[:600]
    assert "For research only: not a medical device." in top
    assert "This file holds radiographs of a phantom." in top and "drawn by a program" in top


def test_its_numbers_are_those_of_the_run(page, run):
    told = json.loads((run / "metrics.json").read_text())
    for region, row in told["scores"].items():
        name = {"overall": "all studies", "macro": "mean of regions"}.get(region, region)
        for metric in ("auroc", "kappa", "sensitivity", "specificity", "brier"):
            ends = [row[metric], row[f"{metric}_lo"], row[f"{metric}_hi"]]
            if ends[0] is not None:
                shown = with_interval(*(np.nan if o is None else o for o in ends))
                rows = [row[1:] for row in page.rows if row and row[0].removesuffix(" (few)") == name]
                assert any(shown in cells for cells in rows), (region, metric)
    overall = told["scores"]["overall"]
    assert f"on {overall['n']} held-out studies ({overall['n_abnormal']} abnormal)" in page.text
    alone = told["region_only"]["overall"]
    assert f"Knowing the region alone gives AUROC {with_interval(alone['auroc'])}" in page.text


def test_its_numbers_follow_a_decision_that_was_chosen_later(own, tmp_path):
    edit(own / "decision.yaml", lambda d: d.update(threshold=0.0, by="fixed"))
    assert decision_of(own).threshold == 0
    page = Page(write_report(own, tmp_path / "a.html", pixels=False)[0])
    studies = pd.read_csv(own / "predictions.csv").drop_duplicates("study")
    said = f"of {(studies.label == 0).sum()} normal studies it calls {(studies.label == 0).sum()} abnormal"
    assert said in page.text


def test_it_says_how_to_make_the_run_again(page, run, root):
    code = page.text.replace("\\ ", "")
    assert f"mura train {root.name} --source mura --arch mura_cnn --size 48 --epochs 1 --bs 16" in code
    settings = yaml.safe_load((run / "settings.yaml").read_text())
    for told in (settings["data"]["fingerprint"], settings["versions"]["torch"], "seeds training 0; split 0"):
        assert told in page.text


def test_two_reports_of_a_run_differ_in_nothing(made, run, tmp_path):
    again = write_report(run, tmp_path / "again.html", k=4)[0]
    assert again.read_bytes() == made.read_bytes()


def test_it_lies_in_the_folder_of_the_run_where_nothing_else_is_said(own):
    assert write_report(own, pixels=False) == [own / "report.html"]


def test_a_command_is_broken_between_its_options_and_nowhere_else():
    words = ["mura", "train", "my data --really", "--lr", 0.1, None, "--out", "x" * 70]
    shown = in_lines(words)
    assert len(shown.splitlines()) == 2
    assert shlex.split(shown.replace("\\\n", "")) == [str(w) for w in words if w is not None]


def test_a_report_that_fails_leaves_the_old_one(own, tmp_path, monkeypatch):
    out = tmp_path / "a.html"
    out.write_text("old")
    monkeypatch.setattr(report, "document", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(own, out, pixels=False)
    assert out.read_text() == "old" and [p.name for p in tmp_path.iterdir() if p.name != "own"] == ["a.html"]


# ---------------------------------------------------------------- what may be passed on


def test_without_pixels_no_radiograph_is_inside(run, tmp_path, quick):
    page = Page(write_report(run, tmp_path / "a.html", pixels=False)[0])
    assert not page.all("img") and "image/jpeg" not in page.source
    assert "Made without radiographs" in page.text[:400] and "holds radiographs" not in page.text
    assert "Phantom results." in page.text[:400]
    assert [a["id"] for a in page.all("section")] == SECTIONS


def test_a_report_with_radiographs_of_mura_says_at_its_top_that_it_may_not_be_shared(own, root, tmp_path):
    data = Path(shutil.copytree(root, tmp_path / "MURA-v1.1"))
    (data / "phantom.csv").unlink()  # now it looks like MURA itself
    for name in ("images.csv", "predictions.csv", "predictions-tune.csv"):
        rewrite(own / name, lambda t: t.assign(path=t.path.str.replace(str(root), str(data))))
    edit(own / "settings.yaml", lambda s: s["data"].update(path=str(data), phantom=False))
    out = write_report(own, tmp_path / "a.html", k=2)[0]
    page = Page(out)
    where = page.source.index("may not be shared")
    assert 0 < where < page.source.index("<img") and 'class="notice"' in page.source[:where]
    assert "may not be shared" not in Page(write_report(own, out, pixels=False)[0]).text


def test_nothing_in_it_names_this_machine(own, tmp_path):
    (own / "skipped.csv").write_text(f"path,reason\n{tmp_path}/a.png,same pixels as {Path.home()}/b.png\n")
    edit(own / "settings.yaml", lambda s: s.update(weights=f"{tmp_path}/w.safetensors", store=f"{tmp_path}/store"))
    source = write_report(own, tmp_path / "a.html", k=2)[0].read_text()
    for folder in {str(tmp_path), str(Path.home()), os.path.realpath(tmp_path), tmp_path.parent.name}:
        assert folder not in source
    assert "w.safetensors" in source


def test_folders_outside_the_data_and_the_home_are_left_out_too(own, second, tmp_path):
    rows = "/mnt/ward 7/a.png,cannot be read: /mnt/ward 7/a.png\n/d/b.png,same pixels as /mnt/ward 7/c.png\n"
    (own / "skipped.csv").write_text(f"path,reason\n{rows}")
    edit(own / "settings.yaml", lambda s: s.update(weights="/mnt/ward 7/w.safetensors"))
    page = Page(write_report([own, second], tmp_path / "a.html", pixels=False)[0])
    assert "ward 7" not in page.source and "/mnt" not in page.source
    assert "cannot be read: a.png" in page.text and "same pixels as c.png" in page.text
    assert ["weights", "w.safetensors", "none"] in page.rows


def test_a_report_of_own_data_says_that_names_are_inside(own, tmp_path):
    edit(own / "settings.yaml", lambda s: s["data"].update(source="csv"))
    text = Page(write_report(own, tmp_path / "a.html", pixels=False)[0]).text
    assert "Studies and files have their own names here" in text[:700]


@pytest.mark.parametrize("pixels", [True, False])
def test_what_comes_from_outside_is_text(run, root, tmp_path, pixels, no_audit):
    hostile = Path(shutil.copytree(run, tmp_path / HOSTILE[1]))
    regions = sorted(set(pd.read_csv(hostile / "images.csv").region))
    names = dict(zip(regions, HOSTILE, strict=True))

    def rename(t):
        studies = [f"{names[region]}/{study}" for region, study in zip(t.region, t.study, strict=True)]
        return t.assign(region=t.region.map(names), study=studies)

    for name in ("images.csv", "predictions.csv", "predictions-tune.csv"):
        rewrite(hostile / name, rename)
    rows = [[f"/data/{h}.png", h] for h in HOSTILE]
    pd.DataFrame(rows, columns=["path", "reason"]).to_csv(
        hostile / "skipped.csv", index=False, errors="surrogateescape"
    )  # fmt: skip
    data = tmp_path / "data" / HOSTILE[0]
    data.parent.mkdir(parents=True)
    data.symlink_to(root)
    edit(hostile / "settings.yaml", lambda s: s["data"].update(path=str(data)))
    page = Page(write_report(hostile, tmp_path / "a.html", pixels, k=30)[0])
    inside_only(page)
    plain = {h.encode("utf-8", "replace").decode() for h in HOSTILE}
    assert all(" ".join(h.split()) in page.text for h in plain)
    assert bool(page.radiographs) == pixels
    assert len(page.ids) == len(set(page.ids))


def test_whatever_is_put_into_a_page_becomes_text():
    "Also what is no text: fastcore by itself escapes nothing but text."
    for thing in (Path("/<b>"), ["<b>", Path("<b>")], ("<b>",), ValueError("<b>"), pd.Series(["<b>"])):
        page = html(Div(thing, title=thing))
        assert "<b>" not in page.split(">", 1)[1] and page.count("<div") == 1


# ---------------------------------------------------------------- runs of every kind


def test_a_run_whose_data_is_gone_has_a_report_that_says_what_is_missing(own, tmp_path, capsys):
    for name in ("images.csv", "predictions.csv", "predictions-tune.csv"):
        rewrite(own / name, lambda t: t.assign(path="/gone" + t.path))
    edit(own / "settings.yaml", lambda s: s["data"].update(path="/gone" + s["data"]["path"]))
    page = Page(write_report(own, tmp_path / "a.html")[0])
    err = capsys.readouterr().err
    assert "without pictures" in err and "its data is not at /gone" in err and f"mura relocate {own} FOLDER" in err
    assert not page.all("img") and [a["id"] for a in page.all("section")] == SECTIONS
    assert "not where the run says: no pictures here" in page.text and "Not audited" in page.text
    assert "on a phantom" in page.text and "Stanford" not in page.text


def test_one_unreadable_picture_is_said_in_its_place(own, root, tmp_path):
    data = Path(shutil.copytree(root, tmp_path / "copy"))
    for name in ("images.csv", "predictions.csv"):
        rewrite(own / name, lambda t: t.assign(path=t.path.str.replace(str(root), str(data))))
    edit(own / "settings.yaml", lambda s: s["data"].update(path=str(data)))
    worst = pd.read_csv(own / "predictions.csv").sort_values("loss").iloc[-1]
    Path(worst.path).write_bytes(b"no picture")
    page = Page(write_report(own, tmp_path / "a.html", k=30)[0])
    assert page.text.count("Picture not available") == 1 and page.radiographs


def test_a_run_that_was_stopped_says_so(own, tmp_path):
    edit(own / "settings.yaml", lambda s: s.update(epochs=7))
    assert "Not trained to its end: 1 of 7 epochs" in Page(write_report(own, tmp_path / "a.html", pixels=False)[0]).text


def test_a_run_without_weights_is_shown_without_heat_maps(own, tmp_path):
    (own / "weights" / "best.safetensors").unlink()
    page = Page(write_report(own, tmp_path / "a.html", k=2)[0])
    assert "No heat maps" in page.text and page.radiographs and str(tmp_path) not in page.source


def test_a_patient_on_both_sides_is_said(own, tmp_path):
    def leak(table):
        return table.assign(patient=table.patient.where(table.split == "tune", "patient00001"))

    rewrite(own / "images.csv", leak)
    page = Page(write_report(own, tmp_path / "a.html", pixels=False)[0])
    assert "1 patient is both among those trained or chosen on and those reported" in page.text
    assert "No patient is on both sides" not in page.text and "that nothing was chosen on" not in page.text
    assert "But these scores are too good: 1 patient" in page.text and "--allow-leaks" in page.text


def test_a_threshold_that_was_chosen_on_what_is_reported_is_said(own, tmp_path):
    edit(own / "decision.yaml", lambda d: d.update(by="kappa", chosen_on={"split": "reported rows"}))
    text = Page(write_report(own, tmp_path / "a.html", pixels=False)[0]).text
    assert "too good: the threshold was chosen on studies that are reported" in text
    assert "that nothing was chosen on" not in text and "neither epoch nor threshold" not in text


@pytest.fixture(scope="module")
def second(run, tmp_path_factory):
    "Another run on the same data: the predictions of the first one, disturbed."
    other = Path(shutil.copytree(run, tmp_path_factory.mktemp("second") / "second"))
    rng = np.random.default_rng(0)
    for name in ("predictions.csv", "predictions-tune.csv"):
        rewrite(other / name, lambda t: t.assign(p_abnormal=np.clip(t.p_abnormal + rng.normal(0, 0.2, len(t)), 0, 1)))
    edit(other / "settings.yaml", lambda s: s.update(lr=0.5, seed=7))
    return other


@pytest.mark.slow
def test_several_runs_are_compared_first(run, second, tmp_path):
    page = Page(write_report([run, second], tmp_path / "a.html", k=6)[0])
    inside_only(page)
    sections = [a["id"] for a in page.all("section")]
    each = [[f"r{i}-run", *(f"r{i}-{name}" for name in SECTIONS)] for i in (1, 2)]
    assert sections == ["comparison", *each[0], *each[1]] and len(page.ids) == len(set(page.ids))
    assert {a["href"][1:] for a in page.all("a")} >= set(sections)
    assert "Overall kappa: second" in page.text[:1500] and "seed 0 7" in page.text and "lr 0.002 0.5" in page.text
    assert page.text.count("The very same rows, labels and splits") == 1


def test_runs_that_cannot_be_compared_say_why_and_are_told_all_the_same(run, second, tmp_path, quick):
    apart = Path(shutil.copytree(second, tmp_path / "apart"))
    rewrite(apart / "predictions.csv", lambda t: t.assign(study="other/" + t.study))
    page = Page(write_report([run, apart], tmp_path / "a.html", pixels=False)[0])
    assert "cannot be compared: the arms have no labelled study in common" in page.text
    assert "r2-scores" in page.ids and str(tmp_path) not in page.source


@pytest.mark.slow
def test_several_trainings_of_one_recipe_are_one_run(root, tmp_path, no_audit):
    folder = train(root, tmp_path / "cv", size=40, epochs=1, bs=8, num_workers=1, folds=2, seeds=2, seed=3)[0]
    page = Page(write_report(folder, tmp_path / "a.html", k=3)[0])
    told = json.loads((folder / "metrics.json").read_text())["scores"]["overall"]
    assert f"{with_interval(told['auroc'], told['auroc_lo'], told['auroc_hi'], 2)} ± " in page.text
    studies = pd.read_csv(folder / "predictions.csv").study.nunique()
    assert f"every fold in turn: {studies} studies" in page.text
    assert "2 folds by 2 seeds" in page.text and "fold1-seed4" in page.text and page.radiographs
    assert "--seed 3 --seeds 2 --folds 2" in page.text.replace("\\ ", "")
    first = pd.concat([pd.read_csv(folder / f"fold{f}-seed3" / "predictions.csv") for f in (0, 1)])
    assert f"all studies, n = {first.study.nunique()}" in page.text


# ---------------------------------------------------------------- wrong input


def test_what_cannot_be_written_is_said_before_the_work(run, second, tmp_path, monkeypatch):
    for runs, out, words in (
        ([], None, "no run given"),
        ([run, second], None, "-o FILE.html"),
        ([run, run], tmp_path / "a.html", "named twice"),
        (run, tmp_path, "ends in .html"),
        (run, tmp_path / "a.pdf", "ends in .html"),
        (tmp_path, tmp_path / "a.html", "not a run"),
    ):
        with pytest.raises(InputError, match=words):
            write_report(runs, out)
    with pytest.raises(InputError, match="at least one"):
        write_report(run, tmp_path / "a.html", k=0)
    monkeypatch.setenv("MURA_CHROMIUM", "/nowhere/chromium")
    with pytest.raises(InputError, match="/nowhere/chromium: no program"):
        write_report(run, tmp_path / "a.html", pdf=True)
    monkeypatch.delenv("MURA_CHROMIUM")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="MURA_CHROMIUM"):
        write_report(run, tmp_path / "a.html", pdf=True)
    assert not list(tmp_path.iterdir())


def test_a_browser_that_does_not_print_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "a.html").write_text("<p>x")
    program = tmp_path / "chromium"
    program.write_text("#!/bin/sh\necho 'cannot open display' >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("MURA_CHROMIUM", str(program))
    with pytest.raises(OSError, match="cannot open display"):
        pdf.print_pdf(tmp_path / "a.html", tmp_path / "a.pdf")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.html", "chromium"]


# ---------------------------------------------------------------- plots


def plot(words="x"):
    fig = Figure(figsize=(4, 3))
    ax = fig.subplots()
    ax.plot([0, 1, 2], [2, 1, 0], color="black", label="a", url="https://example.org")
    ax.fill_between([0, 1], [0, 0], [1, 1], hatch="/", color="#0072B2")
    ax.set_title(words, parse_math=False)
    return fig


def test_plots_hold_shapes_and_text_and_nothing_else():
    for words in HOSTILE:
        svg, width = inline_svg(plot(words), "one", words)
        assert "<script" not in svg and "<img" not in svg and "example.org" not in svg and width > 300
        page = html(Div(svg))
        assert page.count("<svg") == 1


def test_two_plots_on_a_page_do_not_meet():
    ids = [set(re.findall(r'id="([^"]+)"', inline_svg(plot(), name, "x")[0])) for name in ("one", "two")]
    assert ids[0] and not ids[0] & ids[1]


def test_plots_follow_the_theme_unless_their_letters_stand_on_colour():
    svg, _ = inline_svg(plot(), "one", "x")
    assert "var(--ink)" in svg and "var(--series-0)" in svg and "#000000" not in svg
    fig = plot()
    fig.axes[0].text(0, 0, "on a dark ground", color="white")
    shown = html(chart(fig, "one", "Title", "How"))
    assert 'class="sheet"' in shown and "var(--ink)" not in shown


def test_a_cloud_of_points_stays_small():
    fig = Figure(figsize=(4, 3))
    fig.subplots().scatter(*np.random.default_rng(0).random((2, 50_000)))
    assert len(inline_svg(fig, "cloud", "x")[0]) < 400_000


# ---------------------------------------------------------------- size


@pytest.mark.slow
def test_a_report_of_muras_size_stays_small(run, tmp_path, no_audit):
    "1,199 studies in seven regions, 3,197 views, 20 studies of the largest loss, pictures full of noise."
    from PIL import Image

    own = Path(shutil.copytree(run, tmp_path / "own"))
    rng, rows = np.random.default_rng(0), []
    regions = sorted(set(pd.read_csv(own / "images.csv").region))
    for i in range(1199):
        region, label = regions[i % 7], int(rng.random() < 0.45)
        for view in range(1, 3 + (i % 3 < 2)):
            p = 1 / (1 + np.exp(-rng.normal(2 * label - 1, 1.5)))
            study = f"{region}/patient{i:05d}/study1"
            path = str(tmp_path / "MURA" / study / f"image{view}.png")
            rows.append([path, "valid", region, f"patient{i:05d}", study, view, label, 0, p, 1.0])
    columns = ["path", "split", "region", "patient", "study", "view", "label", "n_unreadable", "p_abnormal", "loss"]
    table = pd.DataFrame(rows, columns=columns)
    grain = rng.normal(0, 14, (512, 420)) + np.linspace(20, 200, 420)
    for i, path in enumerate(table.path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        if i < 1:
            Image.fromarray(grain.clip(0, 255).astype(np.uint8)).save(path)
        else:
            os.link(table.path[0], path)
    table.to_csv(own / "predictions.csv", index=False)
    rewrite(own / "images.csv", lambda t: t.assign(path=str(tmp_path / "MURA") + t.path))
    edit(own / "settings.yaml", lambda s: s["data"].update(path=str(tmp_path / "MURA")))
    out = write_report(own, tmp_path / "a.html", k=20)[0]
    assert len(Page(out).radiographs) > 80
    assert out.stat().st_size < 4e6
