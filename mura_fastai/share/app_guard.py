"""Who may speak to the page: its own address, its own pages, and elsewhere than on loopback holders of its token."""

import asyncio
import hmac
import ipaddress
import socket
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.exceptions import HTTPException

SMALL_BODY = 2**16  # bytes of any request but a study
DRAINED = 2**28  # bytes that are read and dropped after a body is too large: a sender that still sends hears no answer
SLOWEST = 120  # seconds that a body may take
HEADERS = {
    "x-content-type-options": "nosniff", "x-frame-options": "DENY", "referrer-policy": "no-referrer",
    "cache-control": "no-store", "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin", "permissions-policy": "camera=(), microphone=(), geolocation=()",
}  # fmt: skip


def is_loopback(
    host: str,  # a name or an address to listen on
) -> bool:
    "Whether nobody but this machine can reach it."
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def is_everywhere(
    host: str,  # a name or an address to listen on
) -> bool:
    "Whether it means all addresses of this machine, as 0.0.0.0 does."
    try:
        return ipaddress.ip_address(host.strip("[]")).is_unspecified
    except ValueError:
        return False


def bracketed(
    host: str,  # a name or an address
) -> str:
    "As it stands in a URL: an address of IPv6 has brackets."
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


class Guard:
    """An ASGI app around another one: refuses strangers, limits bodies, and adds the headers that bind a browser.

    A page of another site that reaches this port by a name of its own (DNS rebinding) has the wrong Host, a form or
    script of another site the wrong Origin. What is refused gets a line of text and the status 403."""

    def __init__(
        self,
        app,  # the ASGI app
        host: str,  # that is listened on
        port: int,
        token: str | None,  # that is asked for; None lets everybody in
        policy: str,  # Content-Security-Policy
        bodies: dict[str, int],  # path -> bytes that its body may have
    ):
        self.app, self.host, self.port, self.token, self.bodies = app, host, port, token, bodies
        self.cookie = f"mura_token_{port}"  # cookies know no ports
        self.headers = [(k.encode(), v.encode()) for k, v in {**HEADERS, "content-security-policy": policy}.items()]
        names = {"localhost", "127.0.0.1", "[::1]"}
        names |= {socket.gethostname(), socket.getfqdn()} if is_everywhere(host) else {bracketed(host)}
        ends = [f":{port}", *([""] if port == 80 else [])]
        self.hosts = {name.lower() + end for name in names for end in ends}

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        headers, fresh = _Headers(scope["headers"]), self._has_token(parse_qs(scope["query_string"]).get(b"token", []))
        why = self._refusal(scope, headers) or ("" if fresh or self._knows(headers) else _NO_TOKEN)
        body = _Body(receive, self.bodies.get(scope["path"], SMALL_BODY), headers)

        async def answer(message):
            if message["type"] == "http.response.start":
                mine = [*self.headers, *([(b"connection", b"close")] if not body.whole else [])]
                if fresh and self.token and not why:
                    told = f"{self.cookie}={self.token}; HttpOnly; SameSite=Strict; Path=/"
                    mine.append((b"set-cookie", told.encode()))
                message = message | {"headers": [*message.get("headers", []), *mine]}
            await send(message)

        if not why:
            return await self.app(scope, body, answer)
        line = f"{why}\n".encode()
        about = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(line)).encode())]
        await answer({"type": "http.response.start", "status": 403, "headers": about})
        await answer({"type": "http.response.body", "body": line})

    def _refusal(self, scope, headers: "_Headers") -> str:
        "Why a request is none of ours; an empty text where it is one."
        host, origin, site = (headers.one(name) for name in ("host", "origin", "sec-fetch-site"))
        if not self._is_ours(host):
            return f"This page answers to its own address alone, such as http://{bracketed(self.host)}:{self.port}/."
        own = origin is not None and origin.startswith("http://") and self._is_ours(origin.removeprefix("http://"))
        # Browsers call the origin of a form null where its page asks for no referrer, and say in Sec-Fetch-Site, which
        # no script can set, that it was ours.
        if origin not in (None, "null") and not own:
            return "Another site may not use this page."
        if scope["method"] in ("GET", "HEAD"):
            return ""
        if site not in (None, "same-origin"):
            return "Another site may not use this page."
        return "" if own or site else "Send this from the page itself: neither Origin nor Sec-Fetch-Site says so."

    def _is_ours(self, host: str | None) -> bool:
        "Is this an address under which the page is reached?"
        if host is None or not is_everywhere(self.host):
            return host is not None and host.lower() in self.hosts
        name, _, port = host.rpartition(":")
        try:  # a number is no name that somebody could point at this machine
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return host.lower() in self.hosts
        return port == str(self.port)

    def _has_token(self, given: list) -> bool:
        return self.token is None or any(hmac.compare_digest(g, self.token.encode()) for g in given)

    def _knows(self, headers: "_Headers") -> bool:
        try:
            jar = SimpleCookie(headers.one("cookie") or "")
        except CookieError:
            return False
        return self.cookie in jar and self._has_token([jar[self.cookie].value.encode("utf-8", "replace")])


_NO_TOKEN = "This page needs its token: open the address that mura app printed."


class _Headers:
    "The headers of a request; one that comes twice counts as a wrong one."

    def __init__(self, pairs):
        self.of = {}
        for name, value in pairs:
            self.of.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))

    def one(self, name: str) -> str | None:
        given = self.of.get(name)
        return None if given is None else given[0] if len(given) == 1 else "\n".join(given)


class _Body:
    "A request's body with an end: more bytes than allowed, or too slow ones, raise 413 or 408 where it is read."

    def __init__(self, receive, limit: int, headers: _Headers):
        told = headers.one("content-length") or "0"
        self.receive, self.limit, self.until, self.got = receive, limit, None, 0
        self.told = int(told) if told.isdecimal() and len(told) < 19 else 2**63
        self.whole = self.told == 0 and headers.one("transfer-encoding") is None

    async def __call__(self):
        self.until = self.until or asyncio.get_running_loop().time() + SLOWEST
        if self.told > self.limit:
            await self._drain()
        message = await self._next()
        self.got += len(message.get("body", b""))
        if self.got > self.limit:
            await self._drain()
        return message

    async def _next(self):
        try:
            async with asyncio.timeout_at(None if self.whole else self.until):
                message = await self.receive()
        except TimeoutError:
            raise HTTPException(408, "The upload took too long.") from None
        self.whole = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    async def _drain(self):
        "Read on for a while, keep nothing, and say that it was too much."
        while not self.whole and max(self.got, self.told) <= DRAINED:
            self.got += len((await self._next()).get("body", b""))
        raise HTTPException(413, f"Too large: at most {self.limit / 2**20:.3g} MB may be sent at a time.")
