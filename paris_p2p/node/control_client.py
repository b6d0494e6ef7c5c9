"""A command asks the peer that runs on a data directory: status, pause, resume, stop (see control.py for the
other end).
"""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

from paris_p2p.errors import ParisError, UnreachableError, UsageError

CONTROL_FILE = "control.json"
USAGE_STATUS = 422  # of a refusal that is a usage mistake
_MAX_REFUSAL_BYTES = 1 << 16


class Controlled(NamedTuple):
    """What kind of node a command speaks to, in words."""

    called: str = "peer"
    started_by: str = "paris-peer start INVITE"

    @property
    def starts(self) -> str:
        """Returns the command alone."""
        return " ".join(self.started_by.split()[:2])


PEER, OPERATORS_NODE = Controlled(), Controlled("bootstrap node", "paris-bootstrap serve")


def call_control(
    data_dir: Path, method: str, name: str, timeout_s: float = 120.0, who: Controlled = PEER
) -> dict[str, Any]:
    """Returns the answer to GET /status or POST /<action>; UnreachableError when no peer runs there or it
    does not answer.
    """
    body = b"" if method == "POST" else None
    try:
        answer: dict[str, Any] = json.loads(_call(data_dir, method, name, body, timeout_s, who))
        return answer
    except ValueError as error:
        raise UnreachableError(
            f"the {who.called} on {data_dir} answers {name!r} with no JSON; update it"
        ) from error
    except _Refusal as refusal:
        raise UnreachableError(
            f"the {who.called} on {data_dir} refused {name!r}: {refusal.body[:300].decode(errors='replace')}"
        ) from refusal


def ask_control(data_dir: Path, question: str, body: bytes = b"{}", timeout_s: float = 120.0) -> bytes:
    """Returns the answer to a question, as JSON.

    UnreachableError when no peer runs there or it does not answer; UsageError or ParisError, in the peer's
    own words, when it refuses.
    """
    try:
        return _call(data_dir, "POST", f"ask/{question}", body, timeout_s)
    except _Refusal as refusal:
        kind = UsageError if refusal.status == USAGE_STATUS else ParisError
        raise kind(refusal.detail) from refusal


class _Refusal(Exception):
    """Is an answer that is none."""

    def __init__(self, status: int, body: bytes):
        self.status, self.body = status, body

    @property
    def detail(self) -> str:
        try:
            return str(json.loads(self.body)["detail"])
        except (ValueError, KeyError, TypeError):
            return f"the peer answered with status {self.status}: {self.body[:300].decode(errors='replace')}"


def control_url(data_dir: Path, who: Controlled = PEER) -> str:
    """Returns where the peer's control API listens; UnreachableError when no peer runs there."""
    return _control(data_dir, who)[0]


def _control(data_dir: Path, who: Controlled) -> tuple[str, str, int]:
    """Returns URL, token and process of the node that runs on a data directory; UnreachableError."""
    path = data_dir / CONTROL_FILE
    if not path.exists():
        raise UnreachableError(
            f"no {who.called} is running on {data_dir}; start one with `{who.started_by}`, "
            "or name its --data-dir"
        )
    try:
        control = json.loads(path.read_text())
        return str(control["url"]), str(control["token"]), int(control["pid"])
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise UnreachableError(
            f"{path} is damaged or the {who.called} just stopped; start it (again) with `{who.started_by}`"
        ) from error


def _call(
    data_dir: Path, method: str, name: str, body: bytes | None, timeout_s: float, who: Controlled = PEER
) -> bytes:
    """Returns the answer; UnreachableError or _Refusal."""
    url, token, pid = _control(data_dir, who)
    request = urllib.request.Request(
        f"{url}/{name}",
        method=method,
        headers={"Authorization": f"Bearer {token}"},
        data=body,
    )
    # never through a proxy: it is this machine
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=timeout_s) as reply:
            answer: bytes = reply.read()
            return answer
    except urllib.error.HTTPError as error:
        with error:
            raise _Refusal(error.code, error.read(_MAX_REFUSAL_BYTES)) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        why = getattr(error, "reason", error)  # urllib wraps what the system said
        words = getattr(why, "strerror", None) or why
        raise UnreachableError(
            f"the {who.called} on {data_dir} (pid {pid}) does not answer ({words}); "
            f"if it was killed, `{who.starts}` starts it again"
        ) from error
