"""The link that opens the page here, and the line that brings it to another machine's browser."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from urllib.parse import urlsplit


def page_link(url: str, code: str) -> str:
    """Returns the link of a page at `url`. What follows # is not sent to any server, nor kept in its logs."""
    return f"{url}/#{code}"


def ssh_line(url: str, user: str, host: str) -> str:
    """Returns the ssh command that makes the page's port this machine's, typed on the other machine."""
    port = urlsplit(url).port
    name = host if re.fullmatch(r"[A-Za-z0-9._-]+", host) else "THIS-MACHINE"
    who = f"{user}@" if re.fullmatch(r"[A-Za-z0-9._-]+", user) else ""
    return f"ssh -N -L {port}:127.0.0.1:{port} {who}{name}"


def has_screen(environment: Mapping[str, str] = os.environ) -> bool:
    """Tells whether a browser can show itself here: not over ssh, nor without a display."""
    display = environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY")
    return bool(display) and not environment.get("SSH_CONNECTION")
