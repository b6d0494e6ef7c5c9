"""What `paris-peer set` changes on a running peer, kept over restarts.

The newest word counts: a value that was set wins over the option, variable or file that the peer was started
with then, and over any profile or default; where a later start names another value, that one wins.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from paris_p2p.byte_size import exact_size
from paris_p2p.disk import explained, write_atomic
from paris_p2p.errors import UsageError
from paris_p2p.node.care_status import SettingStatus
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.time_span import span_words

log = logging.getLogger(__name__)
SET_FILE = "set.json"
SET_SOURCE = "paris-peer set"
_MAX_FILE_BYTES = 1 << 16
_MAX_TEXT_LETTERS = 1000

# By what a person calls it: the field of PeerSettings.
SETTABLE: Mapping[str, str] = {
    "hours": "hours",
    "time_zone": "time_zone",
    "only_idle": "only_idle_s",
    "on_battery": "on_battery",
    "max_gpu_temp": "max_gpu_temp_c",
    "max_gpu_power": "max_gpu_power_w",
    "nice": "nice",
    "upload_budget": "upload_budget",
    "download_budget": "download_budget",
    "upload_limit": "upload_limit_bytes_per_s",
    "download_limit": "download_limit_bytes_per_s",
    "max_disk": "max_disk_bytes",
    "max_memory": "max_memory_bytes",
    "max_vram": "max_vram_bytes",
    "threads": "threads",
    "micro_batch": "micro_batch_clips",
}


class KeptChange(BaseModel):
    """A value that was set, and what a start's option, variable or file said instead; None: none did."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: Annotated[str, Field(max_length=_MAX_TEXT_LETTERS)]
    instead_of: Annotated[str, Field(max_length=_MAX_TEXT_LETTERS)] | None = None


class SetAnswer(BaseModel):
    """What `paris-peer set` is answered: all settings, and what follows of a change in words."""

    settings: tuple[SettingStatus, ...]
    said: tuple[str, ...] = ()


@dataclass(frozen=True)
class KeptChanges:
    """The settings that a peer was started with, where each came from, and what was set since."""

    started: PeerSettings
    origins: Mapping[str, str]  # by what a person calls it
    changes: Mapping[str, KeptChange]

    @property
    def settings(self) -> PeerSettings:
        """Returns what counts now."""
        found = self.started
        for key, change in self.changes.items():
            found = found.model_copy(update=_field(key, change.value))
        return found

    @property
    def all_origins(self) -> Mapping[str, str]:
        """Returns where each value comes from, those that were set with it."""
        return {**self.origins, **dict.fromkeys(self.changes, SET_SOURCE)}

    def with_words(self, words: Mapping[str, str]) -> KeptChanges:
        """Returns the settings after `key=value` for each word; an empty value takes back what was set.
        UsageError, and nothing is changed, where one is wrong.
        """
        changes = dict(self.changes)
        for key, text in words.items():
            if key not in SETTABLE:
                raise UsageError(f"{key[:40]!r} cannot be set; what can: {', '.join(SETTABLE)}")
            if not text.strip():
                changes.pop(key, None)
                continue
            _field(key, text)  # or it is refused
            changes[key] = KeptChange(value=text[:_MAX_TEXT_LETTERS], instead_of=self._started_word(key))
        return KeptChanges(self.started, self.origins, changes)

    def rows(self) -> tuple[SettingStatus, ...]:
        """Returns each setting that can be set, its value as it may be written, and its source."""
        settings, origins = self.settings, self.all_origins
        return tuple(
            SettingStatus(
                key=key, value=_words(key, getattr(settings, field)), source=origins.get(key, "default")
            )
            for key, field in SETTABLE.items()
        )

    def write(self) -> None:
        """Keeps what was set."""
        path = self.started.data_dir / SET_FILE
        with explained(path):
            if self.changes:
                kept = {key: change.model_dump() for key, change in self.changes.items()}
                write_atomic(path, json.dumps(kept, indent=1), mode=0o600)
            else:
                path.unlink(missing_ok=True)

    def _started_word(self, key: str) -> str | None:
        return _started_word(self.started, self.origins, key)


def kept_changes(started: PeerSettings, origins: Mapping[str, str]) -> KeptChanges:
    """Returns a peer's settings with what was set before, where no newer word was said at this start."""
    changes: dict[str, KeptChange] = {}
    for key, raw in _read(started.data_dir / SET_FILE).items():
        try:
            change = KeptChange.model_validate(raw)
            _field(key, change.value)
        except (ValidationError, UsageError) as error:
            log.warning("what was set for %s is not understood and left out: %s", key, error)
            continue
        word = _started_word(started, origins, key)
        if word is not None and word != change.instead_of:
            log.warning("%s is %s, as this start says; %s was set before", key, word, change.value)
            continue
        changes[key] = change
    return KeptChanges(started, origins, changes)


def _started_word(started: PeerSettings, origins: Mapping[str, str], key: str) -> str | None:
    """Returns what an option, a variable or a file says; None where a profile or a default decides."""
    origin = origins.get(key, "default")
    is_said = origin != "default" and not origin.startswith("profile ")
    return _words(key, getattr(started, SETTABLE[key])) if is_said else None


def _field(key: str, text: str) -> dict[str, Any]:
    """Returns the field and the value that a text means; UsageError."""
    field = SETTABLE.get(key)
    if field is None:
        raise UsageError(f"{key[:40]!r} cannot be set")
    try:
        checked = PeerSettings.model_validate({"data_dir": Path("."), field: text})
    except ValidationError as error:
        first = error.errors()[0]
        limit = first["msg"].removeprefix("Input ").removeprefix("Value error, ")
        raise UsageError(f"{key}={text[:100]}: {limit}") from error
    return {field: getattr(checked, field)}


def _words(key: str, value: Any) -> str:
    """Returns a value as `set` takes it."""
    if isinstance(value, tuple):
        return "; ".join(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if key == "only_idle":
        return span_words(value) if value else "no"
    if key in ("max_disk", "max_memory", "max_vram", "upload_limit", "download_limit"):
        return exact_size(int(value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            kept = json.loads(file.read(_MAX_FILE_BYTES))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.warning("%s cannot be read (%s); what was set before is forgotten", path, error)
        return {}
    return kept if isinstance(kept, dict) else {}
