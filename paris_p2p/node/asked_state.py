"""What a run is by now, asked of the swarm by a command that stays for a moment only."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

from paris_p2p.handed_word import SlotPlaces
from paris_p2p.invite import Invite
from paris_p2p.node.joining import GENERATOR_DIR, join_run, newcomer_host, newcomer_of
from paris_p2p.node.owner_desk import slot_places
from paris_p2p.node.run_node import opened
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.rules.run_state import RunState
from paris_p2p.shown import say


@dataclass(frozen=True)
class AskedState:
    """Is a run's state as the connected peers tell it; `fork` is what a person is told of a contradiction."""

    state: RunState
    slots: tuple[SlotPlaces, ...]
    fork: str


def ask_state(settings: PeerSettings, invite: Invite) -> AskedState:
    """Joins a run as a generator does, and returns what it is; the errors are those of joining."""
    home = settings.model_copy(update={"data_dir": settings.data_dir / GENERATOR_DIR})
    return asyncio.run(_ask(home, settings.data_dir, invite))


async def _ask(settings: PeerSettings, neighbour: Path, invite: Invite) -> AskedState:
    newcomer = newcomer_of(neighbour, is_generator=True, say=say)
    async with newcomer_host(settings, invite, newcomer) as host:
        run = await join_run(host, invite, newcomer)
        async with opened(host, run) as node:
            state = node.state
            slots = tuple(slot_places(node, slot, time.time()) for slot in state.slots_ever)
            return AskedState(state, slots, node.fork)
