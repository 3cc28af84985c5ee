"""What the local page promises: the answer of `mura predict`, nothing kept, and no way in for strangers."""

import base64
import hashlib
import html
import io
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import httpx
import numpy as np
import pandas as pd
import pytest
from app_client import ask, get, jpeg, listening, multipart, part, png, post, raw, studies_of
from PIL import Image
from statsmodels.stats.proportion import proportion_confint

import mura_fastai.share.app as app_module
from mura_fastai.errors import InputError
from mura_fastai.results.experiment import predict
from mura_fastai.share import app_answers
from mura_fastai.share.app import listen, make_app, serve
from mura_fastai.share.app_answers import LoadedRun, Sent, region_told, study_name
from mura_fastai.share.app_examples import draw_example, match_regions
from mura_fastai.share.app_record import NEAREST
from mura_fastai.share.app_words import words_of

pytest_plugins = ("app_client",)  # its fixtures: own_run, loaded and live


# ---------------------------------------------------------------- the answer


def test_the_page_answers_what_predict_writes(own_run, images, live):
    "The same files, the same numbers: pooling, calibration and thresholds of the region included."
    seen = set()
    for study, files, paths in studies_of(images, 8):
        table = predict([own_run], paths, out=None)
        got = ask(live, files).json()
        assert got["study"] == study and got["region"] == table.region.iloc[0] and got["n_unreadable"] == 0
        assert got["p_abnormal"] == pytest.approx(table.p_study.iloc[0], abs=1e-7)
        assert got["abnormal"] == table.abnormal.iloc[0]
        assert got["threshold"] == (0.37 if got["region"] == "XR_WRIST" else 0.41)
        assert len(got["views"]) == len(files)
        seen |= {got["region"], len(files)}
    assert "XR_WRIST" in seen and len(seen) > 4


def test_pictures_without_a_region_are_answered_as_predict_answers_loose_files(own_run, live, tmp_path):
    for seed, (name, data) in enumerate([("a.png", png(1)), ("b.jpg", jpeg(2)), ("c.png", png(3, mode="RGBA"))]):
        file = tmp_path / f"{seed}" / name
        file.parent.mkdir()
        file.write_bytes(data)
        table = predict([own_run], [file], out=None)
        got = ask(live, [(name, data)], "other").json()
        assert table.region.iloc[0] == got["region"] == "" and not got["trained_on_region"]
        assert got["p_abnormal"] == pytest.approx(table.p_study.iloc[0], abs=1e-7)
        assert any("not trained on this region" in c for c in got["cautions"])


def test_the_decoding_order_of_views_does_not_mix_them_up(loaded):
    files = [Sent(f"XR_HAND/{i}.png", png(i)) for i in range(6)]
    together = loaded.answer(files, "XR_HAND")
    for file, view in zip(files, together.views, strict=True):
        alone = loaded.answer([file], "XR_HAND")
        assert view.name == file.name and np.array_equal(view.grey, alone.views[0].grey)
        assert view.p_abnormal == pytest.approx(alone.p_abnormal, abs=1e-6)


def test_bad_files_are_named_and_the_others_scored(live):
    good = [("XR_HAND/1.png", png(1)), ("XR_HAND/2.jpg", jpeg(2))]
    truncated, gif = png(3)[:-30], io.BytesIO()
    Image.new("L", (64, 64)).save(gif, "GIF")
    tiff = io.BytesIO()
    Image.new("L", (64, 64)).save(tiff, "TIFF")
    bad = {
        "XR_HAND/page.png": (b"<!doctype html><script>alert(1)</script>", "HTML"),
        "XR_HAND/empty.png": (b"", "empty"),
        "XR_HAND/half.png": (truncated, "truncated"),
        "XR_HAND/anim.gif": (gif.getvalue(), "a GIF"),
        "XR_HAND/scan.tiff": (tiff.getvalue(), "not a PNG or JPEG image"),
        "XR_HAND/tiny.png": (png(size=(16, 16)), "too small"),
        "XR_HAND/noise.png": (bytes(range(256)) * 9, "not a PNG or JPEG image"),
        "XR_HAND/zip.png": (b"PK\x03\x04" + b"\0" * 99, "a ZIP"),
    }
    mixed = ask(live, [*good, *((name, data) for name, (data, _) in bad.items())])
    alone = ask(live, good)
    assert mixed.status_code == alone.status_code == 200
    told = {f["name"]: f["reason"] for f in mixed.json()["unreadable"]}
    assert told.keys() == bad.keys() and all(why in told[name] for name, (_, why) in bad.items())
    assert mixed.json()["p_abnormal"] == pytest.approx(alone.json()["p_abnormal"], abs=1e-7)
    assert mixed.json()["n_unreadable"] == 8 and "8 of 10 files" in " ".join(mixed.json()["cautions"])
    nothing = ask(live, [(name, data) for name, (data, _) in bad.items()])
    assert nothing.status_code == 422 and len(nothing.json()["unreadable"]) == 8 and "p_abnormal" not in nothing.json()
    assert 'role="alert"' in ask(live, [("XR_HAND/x.png", b"<x")], accept="text/html").text


def test_colour_and_enlarged_pictures_say_so(loaded):
    big = np.zeros((90, 70, 3), np.uint8) + np.array([200, 60, 30], np.uint8)
    tinted = np.zeros((90, 70, 3), np.uint8) + np.array([104, 100, 98], np.uint8)
    notes = []
    for a in (big, tinted, big[:40]):
        out = io.BytesIO()
        Image.fromarray(a).save(out, "PNG")
        notes.append(loaded.answer([Sent("x.png", out.getvalue())], "").views[0].notes)
    grey = loaded.answer([Sent("x.png", png(0, mode="RGB"))], "").views[0].notes
    assert "colour" in notes[0][0] and notes[1] == grey == [] and "colour" in notes[2][0]
    assert loaded.settings["size"] == 48 and len(notes[2]) == 1
    small = loaded.answer([Sent("x.png", png(0, size=(40, 40)))], "").views[0].notes
    assert len(small) == 1 and "48 px" in small[0]


def test_a_network_without_heat_maps_still_answers(own_run, monkeypatch):
    def refuse(learn):
        raise InputError("the network keeps no map of places")

    with_maps = LoadedRun(own_run).answer([Sent("x.png", png(1))], "XR_HAND")
    monkeypatch.setattr(app_answers, "HeatMapper", refuse)
    without = LoadedRun(own_run)
    answer = without.answer([Sent("x.png", png(1))], "XR_HAND")
    assert answer.p_abnormal == pytest.approx(with_maps.p_abnormal, abs=1e-6)
    assert answer.views[0].heat is None and with_maps.views[0].heat is not None
    assert "keeps no map of places" in html.unescape(str(app_module.app_page.page(
        without, app_module.app_page.answer_part(answer, without)
    )))  # fmt: skip


@pytest.mark.parametrize(
    "spot, words",
    [((0, 0), "in the upper left"), ((4, 4), "in the middle"), ((7, 4), "at the bottom"), ((4, 7), "on the right")],
)
def test_the_hottest_place_is_told_in_words(spot, words):
    heat = np.zeros((8, 8), np.float32)
    heat[spot] = 1
    assert app_answers._place(heat, (80, 80), 1.0) == words
    assert app_answers._place(heat, (80, 80), 1000.0) == app_answers._place(0 * heat, (80, 80), 0.0) == ""


# ---------------------------------------------------------------- the region is told or asked for, never guessed


def test_paths_tell_the_region():
    known = ["XR_HAND", "XR_WRIST", "leg"]
    assert region_told(["MURA/valid/XR_WRIST/patient1/study1/image1.png"] * 2, known) == "XR_WRIST"
    assert region_told(["XR_WRIST_left.png"], known) == "XR_WRIST"
    assert region_told([r"C:\data\Leg\IMG1.jpg", "x/leg/IMG2.jpg"], known) == "leg"
    assert region_told(["XR_HAND/old/XR_WRIST/patient1/study1_positive/image1.png"], known) == "XR_WRIST"
    assert region_told(["XR_HIP/a.png"], known) == "XR_HIP"  # named, though the run does not know it
    assert region_told(["leg.png"], known) is None  # a file may be called anything
    assert region_told(["XR_HAND/a.png", "XR_WRIST/b.png"], known) is None
    assert region_told(["XR_HAND/a.png", "b.png"], known) is None


def test_without_a_region_the_page_asks(live):
    for files in ([("a.png", png())], [("XR_HAND/a.png", png()), ("XR_WRIST/b.png", png(1))]):
        got = ask(live, files)
        assert got.status_code == 422 and got.json()["field"] == "region" and "Which region" in got.json()["error"]
    assert ask(live, [("XR_HAND/a.png", png())]).json()["region"] == "XR_HAND"
    assert ask(live, [("XR_HAND/a.png", png())], "XR_WRIST").json()["region"] == "XR_WRIST"  # who chooses knows better
    unknown = ask(live, [("XR_HIP/a.png", png())]).json()
    assert unknown["region"] == "XR_HIP" and not unknown["trained_on_region"]
    assert ask(live, [("a.png", png())], "XR_NOSE").status_code == 422


def test_two_studies_are_not_taken_for_one(live):
    names = [f"XR_HAND/patient00001/study{i}_positive/image1.png" for i in (1, 2)]
    for region in ("", "XR_HAND"):
        got = ask(live, [(name, png()) for name in names], region)
        assert got.status_code == 422 and "2 studies" in got.json()["error"] and "study2" in got.json()["error"]
    assert ask(live, [(names[0], png()), (names[0].replace("1.png", "2.png"), png(1))]).status_code == 200


def test_studies_are_called_by_what_is_known_of_them():
    mura = ["MURA/XR_HAND/patient1/study2_positive/image1.png"]
    assert study_name(["x/XR_HAND/patient1/study2/image1.png"]) == "XR_HAND/patient1/study2"
    assert "positive" not in study_name(mura)
    assert study_name(["case 7/a.png", "case 7/b.png"]) == "case 7"
    assert study_name(["a.png", "b.png"]) == "a.png"
    assert study_name([""]) == "study"


# ---------------------------------------------------------------- what it means


def test_the_nearest_studies_are_counted_right(loaded, images):
    record = loaded.record
    p, label = record.studies.p_abnormal.to_numpy(), record.studies.label.to_numpy(float)
    assert len(p) == 12 and record.neighbours(0.4, "XR_HAND") is None  # 12 studies say nothing
    many = pd.concat([record.studies] * 40, ignore_index=True)
    many["patient"] = [f"p{i // 2}" for i in range(len(many))]
    many["p_abnormal"] = np.random.default_rng(0).random(len(many)).round(2)
    record = type(record)(many, record.scores, record.bases)
    cents = (100 * many.p_abnormal).round().astype(int)
    for cent in range(5, 95, 3):
        near, distance = record.neighbours(cent / 100, "XR_NOSE"), (cents - cent).abs()
        told = many[distance <= distance.sort_values().iloc[NEAREST - 1]]  # in whole numbers ties are ties
        assert near.n == len(told) and near.abnormal == told.label.sum() and near.region is None
        lo, hi = proportion_confint(near.share * told.patient.nunique(), told.patient.nunique(), method="wilson")
        assert (near.lo, near.hi) == pytest.approx((lo, hi), abs=1e-9)
        assert (near.lowest, near.highest) == (told.p_abnormal.min(), told.p_abnormal.max())
    own = many.groupby("region").size()
    large = own[own >= 60].index[0]
    assert record.neighbours(0.41, large).region == large and len(many) // 5 > NEAREST
    assert record.histogram("XR_NOSE").sum() == len(many) and label.sum() * 40 == record.histogram("XR_NOSE")[1].sum()


def test_words_say_on_which_side_and_why_to_doubt(loaded):
    answer = loaded.answer([Sent("x.png", png(1))], "XR_HAND")
    words = words_of(answer, loaded.record, loaded.decision)
    assert ("not above" in words.probability) == (
        not answer.abnormal
    ) and f"{answer.threshold:.2f}" in words.probability
    assert f"called {'abnormal' if answer.abnormal else 'normal'}" in words.verdict.lower()
    assert any("12 scored studies" in m for m in words.meaning)
    share = loaded.record.bases.loc["XR_HAND", "share"]
    assert any(f"{100 * share:.0f} of 100 hand images" in m for m in words.meaning)
    assert any("valid studies" in c for c in words.cautions)


def test_numbers_that_look_alike_are_told_apart():
    from mura_fastai.share.app_words import apart

    assert apart(0.291, 0.2949) == ("0.291", "0.295") and apart(0.5, 0.5) == ("0.50", "0.50")


def test_a_run_without_scored_studies_says_so(own_run, tmp_path):
    copy = tmp_path / "bare"
    shutil.copytree(own_run, copy)
    for name in ("predictions.csv", "predictions-tune.csv", "metrics.json"):
        (copy / name).unlink(missing_ok=True)
    run = LoadedRun(copy)
    answer = run.answer([Sent("x.png", png(1))], "XR_HAND")
    assert "keeps no scored studies" in " ".join(words_of(answer, run.record, run.decision).meaning)
    page = app_module.app_page.page(run, app_module.app_page.answer_part(answer, run))
    assert "Probability of abnormal" in page and "Bars:" not in page
    assert sorted(p.name for p in copy.iterdir()) == sorted(
        p.name for p in own_run.iterdir() if p.name not in ("predictions.csv", "predictions-tune.csv", "metrics.json")
    )


# ---------------------------------------------------------------- several at a time


def test_studies_sent_together_get_their_own_answers(loaded, live, images):
    studies = list(studies_of(images, app_module.WAITING))
    alone = {
        study: loaded.answer(files, region_told([f.name for f in files], loaded.regions)) for study, files, _ in studies
    }
    got = {}
    threads = [
        threading.Thread(target=lambda s=study, f=files: got.__setitem__(s, ask(live, f).json()))
        for study, files, _ in studies
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for study, files, _ in studies:
        assert got[study]["study"] == study and len(got[study]["views"]) == len(files)
        assert got[study]["p_abnormal"] == pytest.approx(alone[study].p_abnormal, abs=1e-6)


def test_the_page_answers_while_the_network_works(loaded, live, monkeypatch):
    go, network, inside = threading.Event(), loaded._network, []

    def slow(squares, region):
        inside.append(region)
        assert go.wait(30)
        return network(squares, region)

    monkeypatch.setattr(loaded, "_network", slow)
    got = []
    thread = threading.Thread(target=lambda: got.append(ask(live, [("XR_HAND/a.png", png())])))
    thread.start()
    while not inside:
        time.sleep(0.01)
    assert get(live, f"Host: 127.0.0.1:{live}".encode())[0] == 200  # neither finished nor failed: it waits
    assert not got
    go.set()
    thread.join()
    assert got[0].status_code == 200


def test_more_than_a_few_at_a_time_are_told_to_come_again(loaded, monkeypatch):
    go, inside = threading.Event(), []

    def wait(files, region):
        inside.append(1)
        assert go.wait(30)
        raise app_answers.Unreadable([])

    monkeypatch.setattr(loaded, "answer", wait)
    monkeypatch.setattr(app_module, "WAITING", 2)
    with listening(loaded) as port:
        threads = [threading.Thread(target=ask, args=(port, [("XR_HAND/a.png", png())])) for _ in range(2)]
        for thread in threads:
            thread.start()
        while len(inside) < 2:
            time.sleep(0.01)
        busy = ask(port, [("XR_HAND/a.png", png())])
        go.set()
        for thread in threads:
            thread.join()
        assert busy.status_code == 503 and busy.headers["retry-after"]


def test_a_fault_of_the_program_shows_no_traceback(loaded, live, monkeypatch, caplog):
    def broken(files, region):
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(loaded, "answer", broken)
    got = ask(live, [("XR_HAND/a.png", png())])
    assert got.status_code == 500 and "secret" not in got.text and "Traceback" not in got.text
    assert got.headers["x-content-type-options"] == "nosniff"


# ---------------------------------------------------------------- the page itself


def test_the_page_loads_nothing_and_allows_nothing(live, images):
    study = next(studies_of(images, 1))
    home = httpx.get(f"http://127.0.0.1:{live}/", trust_env=False)
    answer = ask(live, study[1], accept="text/html")
    for got in (home, answer):
        page, policy = got.text, got.headers["content-security-policy"]
        found = re.findall(r"(?:src|href|action|srcset|poster|data)=[\"']([^\"']*)", page) + re.findall(
            r"url\(([^)]*)", page
        )
        assert found and all(u.startswith(("data:", "/study", "/example", "#")) for u in found), found
        addresses = set(re.findall(r"(?:https?:)?//[a-z0-9.-]+", re.sub(r"base64,[\w+/=]+", "", page)))
        assert addresses <= {"http://www.w3.org"}  # the name of SVG in the icon
        assert "unsafe" not in policy and policy.startswith("default-src 'none'") and "frame-ancestors 'none'" in policy
        for kind in ("script", "style"):
            [text] = re.findall(rf"<{kind}>(.*?)</{kind}>", page, re.S)
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            assert f"{kind}-src 'sha256-{digest}'" in policy
        assert " style=" not in page and not re.search(r"\son[a-z]+=", page)
        assert "Research only" in page and "Not a medical device" in page
    assert "Probability of abnormal" in answer.text and answer.text.count("data:image/") == 2 + 2 * len(study[1])


def test_every_answer_binds_the_browser(live):
    own = f"Host: 127.0.0.1:{live}".encode()
    answers = [get(live, own, path=path) for path in (b"/", b"/nothing", b"/study")]
    answers += [get(live, b"Host: evil"), raw(live, post(live, b"", length=10**13))]
    assert [a[0] for a in answers] == [200, 404, 405, 403, 413]
    for _, headers, _ in answers:
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store" and headers["x-frame-options"] == "deny"
        assert "default-src 'none'" in headers["content-security-policy"] and "set-cookie" not in headers
        assert "access-control-allow-origin" not in headers and "server" not in headers
    for path in (b"/../../etc/passwd", b"/static/x", b"/.sesskey", b"/study/", b"/docs", b"//evil.example/"):
        assert get(live, own, path=path)[0] in (400, 404), path


def test_a_form_without_the_script_gets_a_page(live):
    "What a browser sends where scripts are off: empty file fields, no Accept for JSON."
    region = b'Content-Disposition: form-data; name="region"'
    body = multipart([part(b"XR_HAND/patient1/study1/image1.png", png(1)), part(b""), (region, b"")])
    status, _, page = raw(live, post(live, body).replace(b"application/json", b"text/html,*/*"))
    assert status == 200 and '<article class="answer card"' in page and "XR_HAND/patient1/study1" in page
    body = multipart([part(b"a.png", png(1)), part(b""), (region, b"")])
    status, _, page = raw(live, post(live, body).replace(b"application/json", b"text/html,*/*"))
    assert status == 422 and 'data-field="region"' in page and "<form" in page


# ---------------------------------------------------------------- examples


def test_examples_are_drawn_and_their_truth_comes_after(live, loaded):
    told = ask(live, [], "XR_WRIST", "/example").json()
    assert told["region"] == "XR_WRIST" and told["drawn"].startswith("It was drawn as ") and told["views"]
    page = ask(live, [], "XR_WRIST", "/example", accept="text/html").text
    assert re.search(r'<details class="truth"><summary>[^<]*</summary><p>It was drawn as', page)
    assert ask(live, [], "XR_NOSE", "/example").status_code == 422
    drawn = [draw_example("XR_HAND", i) for i in range(8)]
    assert {e.label for e in drawn} == {0, 1}
    for e in drawn:
        assert ("drawn as abnormal" in e.truth()) == bool(e.label) == bool(e.findings) and "positive" not in e.files[0][
            0
        ]
    assert draw_example("XR_HAND", 3).files == draw_example("XR_HAND", 3).files


def test_examples_are_of_regions_that_the_run_knows():
    assert match_regions(["XR_HAND", "XR_ELBOW"]) == {"XR_ELBOW": "XR_ELBOW", "XR_HAND": "XR_HAND"}
    assert match_regions(["hand", "hip", "mixed"]) == {"XR_HAND": "hand"}
    assert set(match_regions(["hip"]).values()) == {""}


# ---------------------------------------------------------------- serving


def test_a_taken_port_is_said_before_anything_is_loaded(own_run, monkeypatch):
    monkeypatch.setattr(app_module, "LoadedRun", lambda run: pytest.fail("loaded"))
    with listen("127.0.0.1", 0) as sock, pytest.raises(InputError, match="is taken") as e:
        serve(own_run, sock.getsockname()[1])
    assert "\n" not in str(e.value) and "--port" in str(e.value)


def test_wrong_addresses_are_input_errors(own_run, tmp_path):
    for host, port in (("203.0.113.7", 0), ("no.such.host.invalid", 0), ("127.0.0.1", 99999), ("127.0.0.1", -1)):
        with pytest.raises(InputError):
            listen(host, port)
    with pytest.raises(InputError, match="no address of this machine"):  # not: the port is taken
        listen("fe80::1", 0)
    with pytest.raises(InputError, match="not a run"):
        serve(tmp_path)


def test_serve_prints_its_address_and_asks_for_a_token_where_told(loaded, own_run, monkeypatch, capsys):
    served = []

    class Server:
        def __init__(self, app):
            self.app = app

        def run(self, sockets):
            served.append((self.app, sockets[0].getsockname()))

    monkeypatch.setattr(app_module, "server_of", Server)
    monkeypatch.setattr(app_module, "make_app", lambda run, *a: make_app(loaded, *a))
    opened = []
    monkeypatch.setattr(app_module.webbrowser, "open", opened.append)
    for kwargs in ({}, {"token": True}, {"host": "0.0.0.0"}, {"token": True, "open": True}):
        serve(own_run, 0, **kwargs)
        out, err = capsys.readouterr()
        app, (address, port) = served[-1]
        assert address == kwargs.get("host", "127.0.0.1") and f":{port}/" in out and "Research only" in err
        assert (app.token is not None) == bool(kwargs) == ("?token=" in out)
        assert app.token is None or (app.token in out and len(app.token) > 20 and app.token not in err)
    assert opened == [out.strip()]
    assert len({app.token for app, _ in served}) == 4


@pytest.mark.slow
def test_signals_end_it_in_order(own_run):
    start = (  # what runs in the background of a shell has Ctrl-C ignored, and hands that on
        "import signal, sys, warnings; warnings.simplefilter('ignore')\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from mura_fastai.exits import exit_codes\n"
        "with exit_codes():\n"
        "    from mura_fastai.share.app import serve\n"
        "    serve(sys.argv[1], 0)"
    )
    command, pipes = [sys.executable, "-c", start, str(own_run)], dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    both = {s: subprocess.Popen(command, text=True, **pipes) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        for sent, process in both.items():
            address = process.stdout.readline().strip()
            assert httpx.get(address, trust_env=False, timeout=60).status_code == 200
            process.send_signal(sent)
            _, err = process.communicate(timeout=30)
            assert process.returncode == 128 + sent and "Traceback" not in err
            assert [line for line in err.splitlines() if "stopped" in line] == [
                "stopped; the page is closed, and nothing that was sent to it is kept"
            ]
    finally:
        for process in both.values():
            process.kill()
