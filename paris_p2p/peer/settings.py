"""A peer's settings: a hardware profile below, the command's flags above."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from paris_p2p.errors import UsageError
from paris_p2p.peer.profiles import Profile
from paris_p2p.spec import PeerSettings, parse_bytes

_SIZES = {
    "max_disk": "max_disk_bytes",
    "max_memory": "max_memory_bytes",
    "upload_limit": "upload_limit_bps",
    "download_limit": "download_limit_bps",
}


def merge_settings(profile: Profile | None, flags: Mapping[str, Any]) -> PeerSettings:
    """Settings from a profile and flags; a flag that is None was not given and leaves the profile's value."""
    fields: dict[str, Any] = profile.settings_fields() if profile else {}
    for name, value in flags.items():
        if value is not None:
            fields[_SIZES.get(name, name)] = parse_bytes(value) if name in _SIZES else value
    try:
        return PeerSettings(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"--{str(first['loc'][0]).replace('_', '-')}: {first['msg']}, got {first['input']!r}") from error
