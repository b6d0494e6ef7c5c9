"""What a browser may do with a node's control API: other sites' pages cannot reach it, and ours load nothing
from elsewhere.

A token keeps other users out. This keeps a browser of this user from being made to carry the token's work for
a page on another site: by a name that is made to point to 127.0.0.1 (the Host header), or by a request across
sites (the Origin and Sec-Fetch-Site headers).
"""

from __future__ import annotations

from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}
THIS_MACHINE = ("127.0.0.1", "localhost", "[::1]")
MAX_HEADER_LETTERS = 300


def refusal_of(host: str, origin: str | None, site: str | None, names: Iterable[str]) -> str:
    """Says why a request is not answered; empty where it is.

    `host`, `origin` and `site` are the Host, Origin and Sec-Fetch-Site headers; `names` are those that this
    server may be called, none for any. Programs other than browsers send neither an Origin nor a site.
    """
    name = host[: host.rindex(":")] if host.rpartition(":")[2].isdecimal() else host
    known = tuple(names)
    if known and name.lower() not in known:
        return f"this server is {' or '.join(known)}, not {host[:MAX_HEADER_LETTERS]!r}"
    if origin is not None and origin.lower() not in (f"http://{host.lower()}", f"https://{host.lower()}"):
        return f"a page of {origin[:MAX_HEADER_LETTERS]!r} may not ask this server"
    if site is not None and site not in ("same-origin", "none"):
        return "a page of another site may not ask this server"
    return ""


class Guarded:
    """Wraps an ASGI app: refuses what `refusal_of` refuses with 403, and puts HEADERS on every answer."""

    def __init__(self, app: ASGIApp, names: Iterable[str] = THIS_MACHINE):
        self._app, self._names = app, tuple(names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        given = Headers(scope=scope)
        hosts = given.getlist("host")
        host = hosts[0] if len(hosts) == 1 else ""
        why = refusal_of(host, given.get("origin"), given.get("sec-fetch-site"), self._names)
        app = PlainTextResponse(why, status_code=403) if why else self._app
        await app(scope, receive, answer)
