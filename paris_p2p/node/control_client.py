"""A command asks the peer that runs on a data directory: status, pause, resume, stop (see control.py for the
other end).
"""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from paris_p2p.errors import ParisError, UnreachableError, UsageError

CONTROL_FILE = "control.json"
USAGE_STATUS = 422  # of a refusal that is a usage mistake
_MAX_REFUSAL_BYTES = 1 << 16


def call_control(data_dir: Path, method: str, name: str, timeout_s: float = 120.0) -> dict[str, Any]:
    """Returns the answer to GET /status or POST /<action>; UnreachableError when no peer runs there or it
    does not answer.
    """
    body = b"" if method == "POST" else None
    try:
        answer: dict[str, Any] = json.loads(_call(data_dir, method, name, body, timeout_s))
        return answer
    except ValueError as error:
        raise UnreachableError(f"the peer on {data_dir} answers {name!r} with no JSON; update it") from error
    except _Refusal as refusal:
        raise UnreachableError(
            f"the peer on {data_dir} refused {name!r}: {refusal.body[:300].decode(errors='replace')}"
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


def control_url(data_dir: Path) -> str:
    """Returns where the peer's control API listens; UnreachableError when no peer runs there."""
    return _control(data_dir)[0]


def _control(data_dir: Path) -> tuple[str, str, int]:
    """Returns URL, token and process of the peer that runs on a data directory; UnreachableError."""
    path = data_dir / CONTROL_FILE
    if not path.exists():
        raise UnreachableError(
            f"no peer is running on {data_dir}; start one with `paris-peer start INVITE`, "
            "or name its --data-dir"
        )
    try:
        control = json.loads(path.read_text())
        return str(control["url"]), str(control["token"]), int(control["pid"])
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise UnreachableError(
            f"{path} is damaged or the peer just stopped; start it (again) with `paris-peer start INVITE`"
        ) from error


def _call(data_dir: Path, method: str, name: str, body: bytes | None, timeout_s: float) -> bytes:
    """Returns the answer; UnreachableError or _Refusal."""
    url, token, pid = _control(data_dir)
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
        raise UnreachableError(
            f"the peer on {data_dir} (pid {pid}) does not answer ({getattr(why, 'strerror', None) or why}); "
            "if it was killed, `paris-peer start` starts it again"
        ) from error
