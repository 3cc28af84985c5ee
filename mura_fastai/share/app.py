"""`mura app`: a page on this machine that looks at one study after another. It keeps nothing of what is sent to it."""

import asyncio
import errno
import secrets
import socket
import sys
import webbrowser
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from fasthtml.core import FastHTML
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from mura_fastai.errors import InputError
from mura_fastai.exits import say_stopped
from mura_fastai.share import app_page
from mura_fastai.share.app_answers import Answer, LoadedRun, Sent, Unreadable, region_told, studies_told
from mura_fastai.share.app_examples import NUMBERS, Example, draw_example, match_regions
from mura_fastai.share.app_guard import Guard, bracketed, is_everywhere, is_loopback
from mura_fastai.share.app_uploads import MAX_BYTES, Refused, read_form
from mura_fastai.share.app_words import RESEARCH, words_of
from mura_fastai.text import name_some
from mura_fastai.training.runs import read_settings

WAITING = 4  # studies at a time, read or waiting for the network; more are told to come again


class Page:
    "The answers of one run over HTTP: HTML for people, JSON for who accepts it."

    def __init__(
        self,
        run: LoadedRun,
    ):
        self.run, self.places = run, asyncio.Semaphore(WAITING)

    async def home(self, request: Request) -> Response:
        return HTMLResponse(app_page.page(self.run))

    async def study(self, request: Request) -> Response:
        "The answer for the images of a form."
        async with self._place():
            form = await read_form(request)
            region = self._region(form.files, form.region)
            try:
                answer = await run_in_threadpool(self.run.answer, form.files, region)
            except Unreadable as e:
                raise Refused(422, "None of these files can be used.", "file", e.faults) from None
            return await self._told(request, answer)

    async def example(self, request: Request) -> Response:
        "The answer for a study that is drawn now."
        known = match_regions(self.run.regions)
        try:
            form = await request.form(max_files=0, max_fields=4)
        except ClientDisconnect:
            raise Refused(400, "The form is damaged; send it again.") from None
        name, number = form.get("region"), form.get("number", "")
        if name not in known:
            raise Refused(422, f"There is no example of this region; choose one of {', '.join(known)}.")
        number = int(number) % NUMBERS if number.isdecimal() and len(number) < 9 else secrets.randbelow(NUMBERS)
        async with self._place():
            example = await run_in_threadpool(draw_example, name, number)
            files = [Sent(*file) for file in example.files]
            answer = await run_in_threadpool(self.run.answer, files, known[name])
            return await self._told(request, answer, example)

    @asynccontextmanager
    async def _place(self):
        "One of the few studies that are in memory at a time."
        if self.places.locked():
            raise Refused(503, "Busy with other studies; send it again in a moment.")
        async with self.places:
            yield

    def _region(self, files: list[Sent], chosen: str) -> str:
        "The region that was chosen, or that the paths tell; nothing is guessed, and no two studies are taken for one."
        studies = studies_told([f.name for f in files])
        if len(studies) > 1:
            raise Refused(422, f"These are {len(studies)} studies ({name_some(studies)}): send one at a time.", "file")
        if chosen == app_page.OTHER and chosen not in self.run.regions:
            return ""
        if chosen and chosen not in self.run.regions:
            raise Refused(
                422, f"The run knows no region of this name; choose one of {', '.join(self.run.regions)}.", "region"
            )
        told = chosen or region_told([f.name for f in files], self.run.regions)
        if told is None:
            raise Refused(422, "Which region is it? The files' paths do not say: choose it.", "region")
        return told

    async def _told(self, request: Request, answer: Answer, example: Example | None = None) -> Response:
        if wants_json(request):
            return JSONResponse(self._document(answer, example))
        # Pictures are packed here, too: off the loop, which has others to serve.
        part = await run_in_threadpool(app_page.answer_part, answer, self.run, example)
        return HTMLResponse(await run_in_threadpool(app_page.page, self.run, part))

    def _document(self, answer: Answer, example: Example | None) -> dict:
        words = words_of(answer, self.run.record, self.run.decision)
        return {
            "study": answer.name, "region": answer.region, "trained_on_region": answer.known,
            "p_abnormal": answer.p_abnormal, "threshold": answer.threshold, "abnormal": int(answer.abnormal),
            "views": [
                {"name": v.name, "p_abnormal": v.p_abnormal, "hottest": v.place, "notes": v.notes} for v in answer.views
            ],
            "n_unreadable": len(answer.unreadable),
            "unreadable": [{"name": f.path, "reason": f.reason} for f in answer.unreadable],
            "words": [words.probability, *words.meaning], "cautions": words.cautions,
            **({"drawn": example.truth()} if example else {}), "note": RESEARCH,
        }  # fmt: skip

    async def refused(self, request: Request, why: HTTPException) -> Response:
        "The page with what is wrong on top; JSON or one line for who asks otherwise."
        refused = why if isinstance(why, Refused) else Refused(why.status_code, str(why.detail))
        headers = {"retry-after": "2"} if refused.status_code == 503 else why.headers
        if wants_json(request):
            faults = [{"name": f.path, "reason": f.reason} for f in refused.faults]
            told = {"error": refused.why, "field": refused.field, "unreadable": faults}
            return JSONResponse(told, refused.status_code, headers)
        if request.method != "POST":
            return PlainTextResponse(f"{refused.why}\n", refused.status_code, headers)
        return HTMLResponse(app_page.page(self.run, refused=refused), refused.status_code, headers)


def wants_json(
    request: Request,
) -> bool:
    "Whether the sender prefers JSON to a page."
    accepted = request.headers.get("accept", "")
    return "application/json" in accepted and "text/html" not in accepted


def make_app(
    run: str | Path | LoadedRun,  # a run's folder
    host: str = "127.0.0.1",  # that is listened on
    port: int = 8000,  # likewise; requests for another one are refused
    token: str | None = None,  # that a browser must show; None on loopback alone
) -> Guard:  # an ASGI app
    "The page as an ASGI app. `InputError` for a run that is none, and for another host than loopback without a token."
    token = token or None  # an empty one, as of an unset variable, would let in whoever sends an empty cookie
    if token is None and not is_loopback(host):
        raise InputError(f"{host}: others can reach this address, so the page needs a token (token=...)")
    page = Page(run if isinstance(run, LoadedRun) else LoadedRun(run))
    # FastHTML reads every form before its own routes see it, to the disk where it is large, and puts scripts of other
    # addresses and a session's key into files: plain routes, no sessions, no headers.
    app = FastHTML(
        routes=[
            Route("/", page.home),
            Route("/study", page.study, methods=["POST"]),
            Route("/example", page.example, methods=["POST"]),
        ],
        default_hdrs=False,
        sess_cls=None,
        secret_key="none",
        exception_handlers={HTTPException: page.refused, 404: page.refused},
    )
    app.router.redirect_slashes = False  # other paths are not there, and nobody is sent anywhere
    return Guard(app, host, port, token, app_page.POLICY, {"/study": MAX_BYTES + 2**16})


def listen(
    host: str,  # a name or an address
    port: int,  # 0 for any that is free
) -> socket.socket:
    "A socket that listens. `InputError` where the port is taken or the address is none of this machine."
    strange = InputError(f"{host}: no address of this machine; leave --host away to stay on it")
    if not 0 <= port < 65536:
        raise InputError(f"there is no port {port}: give one from 1024 to 65535, or 0 for any that is free (--port)")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, *_, address = min(found, key=lambda o: o[0] != socket.AF_INET)
        return socket.create_server(address[:2], family=family)
    except (socket.gaierror, UnicodeError):
        raise strange from None
    except PermissionError:
        raise InputError(f"port {port} is for the system's own programs; choose one above 1023 (--port)") from None
    except OSError as e:
        taken = InputError(f"port {port} is taken; choose another (--port), or 0 for any that is free")
        raise (taken if e.errno == errno.EADDRINUSE else strange) from None


def serve(
    run: str | Path,  # a run's folder
    port: int = 8000,  # 0 for any that is free
    host: str = "127.0.0.1",  # an address of this machine; 0.0.0.0 for all of them
    token: bool = False,  # ask for a token on loopback too; elsewhere one is always asked for
    open: bool = False,  # open the page in a browser
):
    """`mura app`: serve the page until Ctrl-C.

    The address is printed on stdout, with the token where there is one: a word that is made anew at each start."""
    read_settings(run)
    with listen(host, port) as listening:
        port = listening.getsockname()[1]
        secret = secrets.token_urlsafe(24) if token or not is_loopback(host) else None
        app = make_app(run, host, port, secret)
        name = bracketed(socket.gethostname() if is_everywhere(host) else host)
        address = f"http://{name}:{port}/" + (f"?token={secret}" if secret else "")
        print(address, flush=True)
        print(f"{RESEARCH} Stop with Ctrl-C.", file=sys.stderr)
        if not is_loopback(host):
            print("Whoever knows this address can send studies; what is sent is not encrypted.", file=sys.stderr)
        if open:
            webbrowser.open(address)
        try:
            server_of(app).run(sockets=[listening])
        except (KeyboardInterrupt, SystemExit) as e:  # of a signal, which comes anew once all is closed
            if getattr(e, "code", 143) == 143:
                say_stopped("the page is closed, and nothing that was sent to it is kept")
            raise


def server_of(
    app: Guard,
    **kwargs,  # of `uvicorn.Config`
) -> uvicorn.Server:
    "A server that says nothing but warnings, and does not wait long for open connections when it is stopped."
    how = dict(log_level="warning", access_log=False, server_header=False, ws="none", proxy_headers=False)
    return uvicorn.Server(uvicorn.Config(app, **how | dict(timeout_graceful_shutdown=3, limit_concurrency=64) | kwargs))
