"""What is tried against the local page: hostile names, bombs, floods, forged requests; and that nothing is kept."""

import asyncio
import io
import json
import re
import socket
import struct
import tempfile
import time
import zlib
from html.parser import HTMLParser

import httpx
import numpy as np
import pytest
from app_client import ask, get, jpeg, listening, multipart, part, png, post, raw
from PIL import Image

from mura_fastai.errors import InputError
from mura_fastai.share import app_guard
from mura_fastai.share.app import make_app
from mura_fastai.share.app_guard import Guard
from mura_fastai.share.app_page import POLICY
from mura_fastai.share.app_uploads import MAX_BYTES, MAX_FILES
from mura_fastai.share.app_words import clean, shown

pytest_plugins = ("app_client",)  # its fixtures: own_run, loaded and live


# ---------------------------------------------------------------- hostile names


HOSTILE = [
    b"<script>alert(1)</script>.png", b"../../../etc/passwd.png", b"..\\..\\boot.ini", b"/etc/shadow",
    b"a" * 3000 + b".png", b"x\x00y.png", b"\xff\xfe\x80.png", "\u202egnp.exe.png".encode(), "骨折 🦴.png".encode(),
    b"=cmd|calc.png", b"%3Cscript%3E.png", b"' onload='alert(1).png", b"\xed\xa0\x80.png", b"con.png", b"-rf.png",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_names_are_words_and_nothing_else(live, name):
    body = multipart(
        [part(name, png()), part(name, b"<html>"), (b'Content-Disposition: form-data; name="region"', b"other")]
    )
    status, _, told = raw(live, post(live, body))
    assert status == 200 and len(json.loads(told)["unreadable"]) == 1
    asked = post(live, body).replace(b"application/json", b"text/html")
    status, headers, page = raw(live, asked)
    assert status == 200 and headers["content-type"] == "text/html; charset=utf-8"
    assert len(re.findall(r"<script", page, re.I)) == 1
    tags = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.append(dict(attributes))
    parser.feed(page)
    assert len(tags) > 50 and not [name for tag in tags for name in tag if name.startswith("on")]
    assert "\u202e" not in page and "\0" not in page and "a" * 100 not in page


def test_names_are_shown_short_and_plain():
    assert shown("x/y/../\u202ez.png") == "?z.png" and shown(r"C:\a\b.png") == "b.png" and shown("///") == "unnamed"
    assert len(shown("a" * 500)) <= 60 and clean("XR_HAND/p/s") == "XR_HAND/p/s"


def test_a_charset_that_holds_what_utf_8_cannot_does_no_harm(live):
    body = multipart([part(b"+2AA-.png", png()), (b'Content-Disposition: form-data; name="region"', b"other")])
    asked = post(live, body).replace(b"; boundary", b"; charset=utf-7; boundary")
    for kind in (b"application/json", b"text/html"):
        assert raw(live, asked.replace(b"application/json", kind))[0] == 200


def test_a_name_that_breaks_its_header_is_refused(live):
    for head in (b'Content-Disposition: form-data; name="file"; filename="a\r\nX: y.png"', b"X-Nothing: here"):
        status, _, _ = raw(live, post(live, multipart([(head, png())])))
        assert status in (400, 422)


# ---------------------------------------------------------------- too much


def bomb(side=12_000):
    "A sound PNG of 144 megapixels in 18 kB."

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = zlib.compress((b"\0" + b"\0" * (side // 8)) * side, 9)
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_a_decompression_bomb_is_refused_by_its_header(live, monkeypatch):
    out, loads = io.BytesIO(), []
    Image.new("L", (8000, 8000)).save(out, "JPEG", quality=1)
    assert len(bomb()) < 20_000 and len(out.getvalue()) < 1_000_000
    monkeypatch.setattr(Image.Image, "load", lambda self: loads.append(self.size))
    got = ask(live, [("XR_HAND/a.png", bomb()), ("XR_HAND/b.jpg", out.getvalue())])
    assert got.status_code == 422 and not loads
    reasons = [f["reason"] for f in got.json()["unreadable"]]
    assert "too many pixels (12000 x 12000" in reasons[0] and "too many pixels (8000 x 8000" in reasons[1]


def test_a_jpeg_of_a_thousand_scans_is_refused(live):
    data = jpeg(progressive=True)
    start = data.rindex(b"\xff\xda")
    many = data[:start] + data[start:-2] * 500 + data[-2:]
    got = ask(live, [("XR_HAND/a.jpg", many)])
    assert got.status_code == 422 and "scans" in got.json()["unreadable"][0]["reason"]
    assert ask(live, [("XR_HAND/a.jpg", data)]).status_code == 200


def test_an_upload_that_is_too_large_gets_413(live):
    got = ask(live, [("XR_HAND/a.png", b"\0" * (MAX_BYTES + 2**17))])
    assert got.status_code == 413 and "64" in got.json()["error"]
    page = ask(live, [("XR_HAND/a.png", b"\0" * (MAX_BYTES + 2**17))], accept="text/html")
    assert page.status_code == 413 and "Too large" in page.text
    # a length that nobody would wait for is refused at once
    began = time.perf_counter()
    status, headers, _ = raw(live, post(live, b"", length=10**13))
    assert status == 413 and headers["connection"] == "close" and time.perf_counter() - began < 10
    status, _, _ = raw(live, post(live, b"", length=10**30))
    assert status in (400, 413)


def test_a_body_without_end_is_cut_off(live):
    sent, part_of = 0, multipart([part(b"a.png")]).removesuffix(b"\r\n--BOUND--\r\n")

    def chunks(most, end=b""):
        nonlocal sent
        yield b"%x\r\n" % len(part_of) + part_of + b"\r\n"
        while sent < most:
            sent += 2**20
            yield b"100000\r\n" + b"\0" * 2**20 + b"\r\n"
        yield end

    asked = post(live, b"", b"Transfer-Encoding: chunked", length="none")
    status, headers, _ = raw(live, asked, more=chunks(2**34))
    assert sent < 2**30 and status in (0, 413)  # 0: the connection was closed under our hands
    sent = 0
    status, headers, _ = raw(live, asked, more=chunks(MAX_BYTES + 2**20, b"0\r\n\r\n"))
    assert status == 413


def test_lengths_that_lie_hurt_nobody(live):
    body = multipart([part(b"XR_HAND/a.png", png())])
    assert raw(live, post(live, body, length=20))[0] in (400, 422)  # the rest is no request
    status, _, _ = raw(live, post(live, body, length=len(body) + 999), wait=1)  # we hang up before it is all there
    assert status in (0, 400)
    assert raw(live, post(live, body, b"Content-Length: 5"))[0] in (0, 400)
    assert ask(live, [("XR_HAND/a.png", png())]).status_code == 200


def test_other_requests_may_not_have_large_bodies(live):
    own = f"Host: 127.0.0.1:{live}\r\nOrigin: http://127.0.0.1:{live}\r\nConnection: close\r\n".encode()
    for line in (b"GET / HTTP/1.1", b"POST /example HTTP/1.1", b"POST /nothing HTTP/1.1"):
        kind = b"Content-Type: application/x-www-form-urlencoded\r\n"
        head = line + b"\r\n" + own + kind + b"Content-Length: 1000000\r\n\r\n"
        status, headers, _ = raw(live, head + b"a" * 1_000_000)
        assert status in ((200,) if b"GET" in line else (413, 404)) and headers["connection"] == "close"


def test_slow_uploads_end(loaded, monkeypatch):
    monkeypatch.setattr(app_guard, "SLOWEST", 0.3)
    with listening(loaded) as port:
        status, _, _ = raw(port, post(port, b"--BOUND\r\n", length=5000))
        assert status == 408


@pytest.mark.parametrize("path", ["/study", "/example"])
def test_who_hangs_up_in_the_middle_is_no_fault_of_the_program(loaded, path):
    kind = "multipart/form-data; boundary=B" if path == "/study" else "application/x-www-form-urlencoded"
    own = {"host": "127.0.0.1:8000", "origin": "http://127.0.0.1:8000", "content-type": kind, "content-length": "500"}
    headers = [(k.encode(), v.encode()) for k, v in own.items()]
    scope = dict(type="http", method="POST", path=path, query_string=b"", headers=headers, http_version="1.1")
    messages, sent = iter([dict(type="http.request", body=b"--B", more_body=True)]), []

    async def receive():
        return next(messages, dict(type="http.disconnect"))

    async def send(message):
        sent.append(message)

    asyncio.run(make_app(loaded)(scope, receive, send))
    assert sent[0]["status"] == 400


def test_too_many_files_and_none(live):
    got = ask(live, [(f"XR_HAND/{i}.png", png()) for i in range(100)])
    assert got.status_code == 413 and str(MAX_FILES) in got.json()["error"]
    assert ask(live, [(f"XR_HAND/{i}.png", png(i)) for i in range(MAX_FILES)]).status_code == 200
    assert ask(live, [(f"XR_HAND/{i}.png", png(i)) for i in range(MAX_FILES + 1)]).status_code == 413
    empty = multipart([part(b""), (b'Content-Disposition: form-data; name="region"', b"other")])
    for body in (empty, multipart([part(b"._a.png", png()), part(b"x/.DS_Store", b"x")])):
        status, _, told = raw(live, post(live, body))
        assert status == 422 and "No image came along" in told
    field = b'Content-Disposition: form-data; name="x"'
    assert raw(live, post(live, multipart([(field, b"y")] * 50)))[0] == 400
    assert raw(live, post(live, multipart([(field, b"y" * 2**21)])))[0] == 400
    assert raw(live, post(live, b"nonsense"))[0] in (400, 422)
    assert raw(live, post(live, b"{}").replace(b"multipart/form-data; boundary=BOUND", b"application/json"))[0] == 415
    assert raw(live, post(live, b"{}").replace(b"; boundary=BOUND", b""))[0] == 400


# ---------------------------------------------------------------- strangers


def test_forged_hosts_are_refused(live):
    for name in ("127.0.0.1", "localhost", "LOCALHOST", "[::1]"):
        assert get(live, f"Host: {name}:{live}".encode())[0] == 200
    forged = [
        "evil.example", f"evil.example:{live}", "127.0.0.1", "127.0.0.1:1", f"127.0.0.1.evil.example:{live}",
        f"user@127.0.0.1:{live}", f"localhost.:{live}", f"127.0.0.1:{live}, evil.example", f"127.1:{live}", "",
    ]  # fmt: skip
    for host in forged:
        status, headers, body = get(live, f"Host: {host}".encode())
        assert status in (400, 403) and "Is this bone" not in body, host
    assert get(live, b"Host: evil.example")[0] == 403
    assert get(live)[0] in (400, 403) and get(live, version=b"1.0")[0] == 403  # none at all
    two = [f"Host: 127.0.0.1:{live}".encode(), b"Host: evil.example"]
    assert get(live, *two)[0] in (400, 403) and get(live, *two[::-1])[0] in (400, 403)
    body = multipart([part(b"XR_HAND/a.png", png())])
    assert raw(live, post(live, body).replace(b"Host: 127.0.0.1", b"Host: evil.example"))[0] == 403


def test_other_sites_are_refused(live):
    body, own = multipart([part(b"XR_HAND/a.png", png())]), b"http://127.0.0.1:%d" % live
    for origin in (
        b"http://evil.example",
        b"null",
        b"https://127.0.0.1:%d" % live,
        b"http://127.0.0.1:1",
        own + b".evil",
    ):
        asked = post(live, body, b"Origin: " + origin, origin=False)
        assert raw(live, asked)[0] == 403, origin
        if origin != b"null":  # a script of another site that only wants to read
            assert get(live, b"Host: 127.0.0.1:%d" % live, b"Origin: " + origin)[0] == 403
    assert raw(live, post(live, body, origin=False))[0] == 403
    for site in (b"cross-site", b"same-site", b"none"):
        assert raw(live, post(live, body, b"Origin: null", b"Sec-Fetch-Site: " + site, origin=False))[0] == 403
        assert raw(live, post(live, body, b"Sec-Fetch-Site: " + site))[0] == 403
    assert raw(live, post(live, body, b"Origin: " + own, b"Origin: http://evil.example", origin=False))[0] == 403
    # a form of the page itself: browsers hide its origin, since the page sends no referrer
    assert raw(live, post(live, body, b"Origin: null", b"Sec-Fetch-Site: same-origin", origin=False))[0] == 200
    assert raw(live, post(live, body))[0] == 200


def test_a_refused_study_never_reaches_the_network(loaded, live, monkeypatch):
    asked = []
    monkeypatch.setattr(loaded, "answer", lambda *a: asked.append(a))
    ask(live, [("XR_HAND/a.png", png())], Origin="http://evil.example")
    assert not asked


def guarded(host, port=8000, token="secret"):
    async def inner(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"in"})

    return Guard(inner, host, port, token, POLICY, {})


def knock(app, host, path="/", **headers):
    "Status and headers of one GET, without a server."
    transport = httpx.ASGITransport(app)

    async def go():
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as c:
            return await c.get(path, headers={"Host": host, **headers})

    return asyncio.run(go())


def test_elsewhere_than_on_loopback_a_token_is_needed(loaded):
    for host in ("0.0.0.0", "::", "192.0.2.5", "example.org", "10.0.0.1"):
        with pytest.raises(InputError, match="token"):
            make_app(loaded, host)
        with pytest.raises(InputError, match="token"):  # of an unset variable
            make_app(loaded, host, token="")
    app = make_app(loaded, "192.0.2.5", 8000, "s3cret-token")
    own = "192.0.2.5:8000"
    assert knock(app, own).status_code == knock(app, own, "/?token=wrong").status_code == 403
    assert "token" in knock(app, own).text and "s3cret" not in knock(app, own).text
    first = knock(app, own, "/?token=s3cret-token")
    cookie = first.headers["set-cookie"]
    assert first.status_code == 200 and "HttpOnly" in cookie and "SameSite=Strict" in cookie and "Domain" not in cookie
    name, value = cookie.split(";")[0].split("=", 1)
    assert knock(app, own, Cookie=f"a=b; {name}={value}").status_code == 200
    assert knock(app, own, Cookie=f"{name}={value}x").status_code == 403
    assert knock(app, own, Cookie=f"{name}=").status_code == knock(app, own, Cookie='"\\').status_code == 403
    assert knock(app, "evil.example:8000", Cookie=f"{name}={value}").status_code == 403
    assert "set-cookie" not in knock(make_app(loaded), "127.0.0.1:8000").headers


def test_all_addresses_means_numbers_and_own_names_alone():
    app = guarded("0.0.0.0", 8000, "t")
    for host in ("192.0.2.9:8000", "[2001:db8::1]:8000", f"{socket.gethostname()}:8000", "localhost:8000"):
        assert knock(app, host, "/?token=t").status_code == 200, host
    for host in ("evil.example:8000", "192.0.2.9:8001", "192.0.2.9", "192.0.2.9.evil.example:8000"):
        assert knock(app, host, "/?token=t").status_code == 403, host
    assert knock(guarded("127.0.0.1", 80, None), "localhost").status_code == 200


def test_tokens_are_compared_in_constant_time(monkeypatch):
    asked = []
    monkeypatch.setattr(app_guard.hmac, "compare_digest", lambda a, b: asked.append((a, b)) or True)
    assert knock(guarded("192.0.2.5"), "192.0.2.5:8000", "/?token=x").status_code == 200
    assert asked == [(b"x", b"secret")]


# ---------------------------------------------------------------- nothing is kept


def test_nothing_uploaded_touches_the_disk(loaded, own_run, live, tmp_path, monkeypatch):
    before = {p: p.stat().st_mtime_ns for p in own_run.rglob("*")}
    rolled = []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", lambda self: rolled.append(self))
    large = np.random.default_rng(0).integers(0, 255, (2000, 2000), np.uint8)
    out = io.BytesIO()
    Image.fromarray(large).save(out, "PNG")
    assert len(out.getvalue()) > 3 * 2**20
    monkeypatch.chdir(tmp_path)
    got = ask(live, [("XR_HAND/a.png", out.getvalue()), ("XR_HAND/b.png", b"junk" * 2**20)])
    assert got.status_code == 200 and got.json()["n_unreadable"] == 1
    ask(live, [], path="/example", region="XR_HAND")
    assert not rolled and not list(tmp_path.iterdir())
    assert before == {p: p.stat().st_mtime_ns for p in own_run.rglob("*")}


def test_the_app_leaves_no_key_and_no_session(loaded, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_app(loaded)
    assert not list(tmp_path.iterdir())
