"""Nobody who looks at a page for everybody takes it from the others: limits by the network they come from."""

from __future__ import annotations

import ipaddress
import time
from collections import Counter
from collections.abc import Callable

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from paris_p2p.swarm.limits import EventLimit

MAX_OPEN = 16  # connections of one network: two browsers, which open six each, and some
REQUESTS_PER_S, REQUESTS_AT_ONCE = 4.0, 120  # of one network; a page asks for twenty things


def visitor_of(host: str) -> str:
    """Returns what one visitor has: an IPv4 address, or an IPv6 /64; "" for this machine, where a web server
    may stand before the page and bring all visitors.
    """
    try:
        ip = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(ip, ipaddress.IPv6Address):
        ip = ip.ipv4_mapped or ip
    if ip.is_loopback:
        return ""
    return str(ip) if ip.version == 4 else str(ipaddress.ip_network((ip, 64), strict=False))


class Visitors:
    """Counts open connections and requests by visitor; it remembers no more than are connected, and the rates
    of as many as an EventLimit does.
    """

    def __init__(
        self,
        visitor_of: Callable[[str], str] = visitor_of,
        *,
        most_open: int = MAX_OPEN,
        per_s: float = REQUESTS_PER_S,
        at_once: int = REQUESTS_AT_ONCE,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._visitor_of, self._most_open = visitor_of, most_open
        self._open: Counter[str] = Counter()
        self._requests = EventLimit(per_s, at_once, clock)

    def enters(self, host: str) -> bool:
        """Counts a connection; False where its visitor has as many as it may, and this one is not counted."""
        visitor = self._visitor_of(host)
        if visitor and self._open[visitor] >= self._most_open:
            return False
        if visitor:
            self._open[visitor] += 1
        return True

    def leaves(self, host: str) -> None:
        """Counts off a connection that entered."""
        visitor = self._visitor_of(host)
        self._open[visitor] -= 1
        if self._open[visitor] <= 0:
            del self._open[visitor]

    def asks(self, host: str) -> bool:
        """Counts a request; False where its visitor asked too often."""
        visitor = self._visitor_of(host)
        return not visitor or self._requests.allow(visitor)


class Paced:
    """Wraps an ASGI app: answers 429 to a visitor that asks too often."""

    def __init__(self, app: ASGIApp, visitors: Visitors):
        self._app, self._visitors = app, visitors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        host, _ = scope.get("client") or ("", 0)
        app = self._app
        if scope["type"] == "http" and not self._visitors.asks(host):
            words = "too many requests came from your network; ask again in a minute"
            app = PlainTextResponse(words, status_code=429, headers={"retry-after": "60"})
        await app(scope, receive, send)
