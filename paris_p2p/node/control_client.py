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

from paris_p2p.errors import UnreachableError

CONTROL_FILE = "control.json"


def call_control(data_dir: Path, method: str, name: str, timeout_s: float = 120.0) -> dict[str, Any]:
    """Returns the answer to GET /status or POST /<action>; UnreachableError when no peer runs there or it
    does not answer.
    """
    path = data_dir / CONTROL_FILE
    if not path.exists():
        raise UnreachableError(
            f"no peer is running on {data_dir}; start one with `paris-peer start INVITE`, "
            "or name its --data-dir"
        )
    try:
        control = json.loads(path.read_text())
        url, token, pid = str(control["url"]), str(control["token"]), int(control["pid"])
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise UnreachableError(
            f"{path} is damaged or the peer just stopped; start it (again) with `paris-peer start INVITE`"
        ) from error
    request = urllib.request.Request(
        f"{url}/{name}",
        method=method,
        headers={"Authorization": f"Bearer {token}"},
        data=b"" if method == "POST" else None,
    )
    # never through a proxy: it is this machine
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=timeout_s) as reply:
            answer: dict[str, Any] = json.load(reply)
    except urllib.error.HTTPError as error:
        raise UnreachableError(
            f"the peer on {data_dir} refused {name!r}: {error.read()[:300].decode(errors='replace')}"
        ) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        why = getattr(error, "reason", error)  # urllib wraps what the system said
        raise UnreachableError(
            f"the peer on {data_dir} (pid {pid}) does not answer ({getattr(why, 'strerror', None) or why}); "
            "if it was killed, `paris-peer start` starts it again"
        ) from error
    return answer
