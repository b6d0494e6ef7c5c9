"""`paris-peer set`: other settings for a running peer, checked, kept and carried out."""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from paris_p2p.errors import UsageError
from paris_p2p.node.host import Host
from paris_p2p.peer.kept_changes import KeptChanges, SetAnswer
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.sensors.priority import nice_session_soon

log = logging.getLogger(__name__)
_AT_NEXT_START = ("threads", "micro_batch", "max_vram")
_Word = Annotated[str, Field(max_length=1000)]


class SetQuestion(BaseModel):
    """Asks for other settings: `words` by key, where an empty one takes back what was set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    words: Annotated[dict[_Word, _Word], Field(max_length=64)] = {}


def parse_question(body: bytes) -> SetQuestion:
    """Returns what is asked; UsageError."""
    try:
        return SetQuestion.model_validate_json(body)
    except ValidationError as error:
        raise UsageError(f"the settings asked for are malformed: {error.errors()[0]['msg']}") from error


def changed_fields(before: PeerSettings, after: PeerSettings) -> dict[str, object]:
    """Returns the fields that differ, with their new values."""
    return {
        name: value
        for name in PeerSettings.model_fields
        if (value := getattr(after, name)) != getattr(before, name)
    }


async def change_store(host: Host, max_bytes: int) -> str:
    """Changes what blobs may take on the disk, and makes room down to it; returns what was done."""
    host.store.max_bytes = max_bytes
    over = host.store.used_bytes() - max_bytes if max_bytes else 0
    if over > 0:
        await asyncio.to_thread(host.make_room, over)
    used = host.store.used_bytes()
    if max_bytes and used > max_bytes:
        return (
            f"max_disk: {used / 1e9:.1f} GB stay, which the run needs here; nothing more is fetched above it"
        )
    return ""


async def renice(group: int | None, nice: int) -> str:
    """Gives all threads of a process group, and its session, another priority; returns what is to be said."""
    if group is None:
        return ""
    try:
        for task in Path(f"/proc/{group}/task").iterdir():
            with suppress(ProcessLookupError):
                os.setpriority(os.PRIO_PROCESS, int(task.name), nice)
    except PermissionError:
        return "nice: only root may raise a running trainer's priority; it counts from its next start"
    except OSError as error:
        log.info("the trainer's priority stays: %s", error)
    if await nice_session_soon(group, nice) in ("later", "not allowed"):
        log.info("the kernel does not give the trainer's session nice %d (/proc/%d/autogroup)", nice, group)
    return ""


def answer(kept: KeptChanges, words: SetQuestion, said: list[str]) -> SetAnswer:
    """Returns what the person is told."""
    later = [key for key in words.words if key in _AT_NEXT_START]
    if later:
        said.append(f"{', '.join(later)}: from the trainer's next start")
    return SetAnswer(settings=kept.rows(), said=tuple(part for part in said if part))
