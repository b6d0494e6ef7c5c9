"""Messages are posted to webhooks, each in its own queue: one that fails or hangs holds up nothing.

A URL may hold a secret: only its scheme and host are ever said or logged. Redirects are not followed, as they
would carry a message to where nobody sent it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from paris_p2p.errors import UsageError
from paris_p2p.monitoring.alarm_words import AlarmMessage
from paris_p2p.peer_settings import webhook

log = logging.getLogger(__name__)
MAX_WAITING = 64  # messages; past that the oldest is left out
MAX_TRIES = 12  # of one message: a little over an hour
FIRST_PAUSE_S, MOST_PAUSE_S = 5.0, 600.0
ANSWER_LIMIT_S = 10.0
MAX_URL_BYTES = 4096
_AGAIN = frozenset({408, 425, 429})  # of the 4xx: the others say that trying again is of no use
Sleep = Callable[[float], Awaitable[None]]


def read_webhooks(notify: Sequence[str]) -> tuple[str, ...]:
    """Returns the URLs of --notify, those in files too; UsageError."""
    return tuple(_read(Path(one[1:])) if one.startswith("@") else one for one in notify)


def _read(path: Path) -> str:
    try:
        with path.expanduser().open("rb") as file:
            text = file.read(MAX_URL_BYTES).decode().strip()
        url = webhook(text)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--notify @{path}: it cannot be read; name a file with a URL") from error
    except ValueError as error:
        raise UsageError(f"--notify @{path}: what it holds {error}") from error
    if url.startswith("@"):
        raise UsageError(f"--notify @{path}: it holds no URL")
    return url


def spoken(url: str) -> str:
    """Returns what of a URL may be said."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}/…"


class WebhookQueue:
    """The messages that one URL is still to get, in order."""

    def __init__(
        self,
        url: str,
        say: Callable[[str], None],
        *,
        sleep: Sleep = asyncio.sleep,
        limit_s: float = ANSWER_LIMIT_S,
    ):
        self.url, self.say, self._sleep, self._limit_s = url, say, sleep, limit_s
        self.waiting: deque[AlarmMessage] = deque(maxlen=MAX_WAITING)
        self._news, self._failing = asyncio.Event(), False

    def put(self, message: AlarmMessage) -> None:
        """Puts a message at the end; it never waits."""
        if len(self.waiting) == MAX_WAITING:
            log.warning("%s is behind: a message was left out", spoken(self.url))
        self.waiting.append(message)
        self._news.set()

    async def run(self) -> None:
        """Posts what comes, until cancelled."""
        async with httpx.AsyncClient(follow_redirects=False, timeout=self._limit_s) as client:
            while True:
                self._news.clear()
                while self.waiting:
                    message = self.waiting[0]
                    await self._post(client, message)
                    with suppress(ValueError):  # left out meanwhile
                        self.waiting.remove(message)
                await self._news.wait()

    async def _post(self, client: httpx.AsyncClient, message: AlarmMessage) -> None:
        for number in range(MAX_TRIES):
            why, again = await self._try(client, message)
            if not why:
                if self._failing:
                    self.say(f"{spoken(self.url)} takes messages again")
                self._failing = False
                return
            if not self._failing:
                self.say(f"{spoken(self.url)} does not take a message: {why}" + ("; trying again" * again))
            self._failing = True
            if not again:
                return
            pause_s = min(MOST_PAUSE_S, FIRST_PAUSE_S * 2.0**number)
            await self._sleep(pause_s * random.uniform(0.75, 1.25))
        self.say(f"{spoken(self.url)} did not take a message in {MAX_TRIES} tries; it is left out")

    async def _try(self, client: httpx.AsyncClient, message: AlarmMessage) -> tuple[str, bool]:
        """Returns why a post failed, empty where it did not, and whether to try again."""
        try:
            async with asyncio.timeout(self._limit_s):  # of all of it, however slowly bytes come
                async with client.stream("POST", self.url, json=message.model_dump()) as answer:
                    status = answer.status_code
        except TimeoutError:
            return f"no answer within {self._limit_s:g} s", True
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return type(error).__name__, not isinstance(error, httpx.InvalidURL)  # its words hold the URL
        if 200 <= status < 300:
            return "", False
        if 300 <= status < 400:
            return f"status {status}, a redirect, which is not followed: name where it leads", False
        return f"status {status}", status >= 500 or status in _AGAIN
