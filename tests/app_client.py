"""Speaking to the local page as browsers do, and as nobody should: what its tests share."""

import contextlib
import io
import shutil
import socket
import threading
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from mura_fastai.results.calibrate import Decision, write_decision
from mura_fastai.share.app import listen, make_app, server_of
from mura_fastai.share.app_answers import LoadedRun, Sent


@pytest.fixture(scope="module")
def own_run(run, tmp_path_factory):
    "A run of this file's own, with a decision that has everything a decision can have."
    copy = tmp_path_factory.mktemp("app") / "first run"
    shutil.copytree(run, copy)
    regions = {"XR_WRIST": dict(threshold=0.37, temperature=0.8)}
    write_decision(Decision(0.41, 1.4, "max", by="kappa", regions=regions, chosen_on={"split": "tune"}), copy)
    return copy


@pytest.fixture(scope="module")
def loaded(own_run):
    return LoadedRun(own_run)


@pytest.fixture(scope="module")
def live(loaded):
    "The page served for real; gives its port."
    with listening(loaded) as port:
        yield port


@contextlib.contextmanager
def listening(loaded, token=None):
    "The page served in a thread; gives its port."
    with listen("127.0.0.1", 0) as sock:
        port = sock.getsockname()[1]
        server = server_of(make_app(loaded, port=port, token=token))
        thread = threading.Thread(target=server.run, kwargs=dict(sockets=[sock]))
        thread.start()
        try:
            yield port
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


def ask(port, files, region="", path="/study", accept="application/json", timeout=60, **headers):
    "A study as the page's script sends it."
    own = {"Origin": f"http://127.0.0.1:{port}", "Accept": accept, **headers}
    sent = [("file", (name, data, "image/png")) for name, data in files]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=timeout, trust_env=False) as c:
        return c.post(path, files=sent or None, data={"region": region}, headers=own)


def raw(port, data, wait=20, more=None):
    "What a server answers to bytes: status, headers, body. `more` yields what is sent after them, until it closes."
    with socket.create_connection(("127.0.0.1", port), timeout=wait) as s:
        with contextlib.suppress(OSError):
            s.sendall(data)
            for chunk in more or ():
                s.sendall(chunk)
        got = b""
        with contextlib.suppress(OSError):
            while part := s.recv(65536):
                got += part
    head, _, body = got.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:])
    return (int(lines[0].split()[1]) if lines[0] else 0), headers, body.decode("utf-8", "replace")


def multipart(parts, boundary=b"BOUND"):
    "A form of (headers, data) byte pairs."
    body = b"".join(b"--" + boundary + b"\r\n" + head + b"\r\n\r\n" + data + b"\r\n" for head, data in parts)
    return body + b"--" + boundary + b"--\r\n"


def post(port, body, *headers, length=None, origin=True):
    "A POST request as bytes."
    own = [b"Host: 127.0.0.1:%d" % port, b"Accept: application/json", b"Connection: close"]
    own += [b"Content-Type: multipart/form-data; boundary=BOUND"]
    own += [b"Origin: http://127.0.0.1:%d" % port] if origin else []
    own += [b"Content-Length: %d" % (len(body) if length is None else length)] if length != "none" else []
    return b"POST /study HTTP/1.1\r\n" + b"\r\n".join([*own, *headers]) + b"\r\n\r\n" + body


def get(port, *headers, path=b"/", version=b"1.1"):
    lines = [b"GET " + path + b" HTTP/" + version, b"Connection: close", *headers]
    return raw(port, b"\r\n".join(lines) + b"\r\n\r\n")


def part(name, data=b"", field=b"file"):
    return b'Content-Disposition: form-data; name="' + field + b'"; filename="' + name + b'"', data


def png(seed=0, size=(64, 80), mode="L"):
    a = np.random.default_rng(seed).integers(0, 255, (size[1] // 8, size[0] // 8), np.uint8)
    out = io.BytesIO()
    Image.fromarray(a).resize(size, Image.Resampling.BICUBIC).convert(mode).save(out, "PNG")
    return out.getvalue()


def jpeg(seed=0, **options):
    out = io.BytesIO()
    Image.open(io.BytesIO(png(seed))).save(out, "JPEG", **options)
    return out.getvalue()


def studies_of(images, n=6):
    "Some valid studies: name, and files as they would be sent."
    valid = images[images.split == "valid"]
    picked = sorted(valid.study.unique(), key=lambda s: (-len(valid[valid.study == s]), s))[:n]
    for study in picked:
        paths = valid.path[valid.study == study]
        yield study, [Sent(p, Path(p).read_bytes()) for p in paths], list(paths)
