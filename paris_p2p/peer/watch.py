"""A volunteer watches two things beside its work: another node with its key, and time that passed unseen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from paris_p2p.errors import SwarmError
from paris_p2p.node.run_node import RunNode
from paris_p2p.node.run_records import PeerRole
from paris_p2p.rules.claims import lead_of
from paris_p2p.rules.wake import Clocks, gap_between

_TICK_S = 2.0


async def watch_twin(node: RunNode, role: PeerRole, say: Callable[[str], None]) -> None:
    """Raises TwinError when another node signs with this node's key and this one is to stop (rules/twin.py);
    says so once when the other is.
    """
    is_said = False
    while True:
        node.own.check()
        if node.own.twin is not None and not is_said:
            is_said = True
            say(
                "another node signs with this peer's identity.key; the one that started later stops, "
                "or else both"
            )
            try:
                await node.announce_peer(role)  # so that the other notices too
            except SwarmError as error:
                say(f"could not announce: {error}")
        await node.own.next_foreign()


async def watch_clocks(
    node: RunNode,
    leading: Callable[[], str],
    say: Callable[[str], None],
    read: Callable[[], Clocks] | None = None,
) -> None:
    """Reads the records anew after a sleep, a SIGSTOP or a clock that was set, and says what it found, until
    cancelled. `leading` names the slot this peer works on, or is empty.
    """
    read = read or read_clocks
    before = read()
    while True:
        await asyncio.sleep(_TICK_S)
        now = read()
        gap, before = gap_between(before, now, _TICK_S), now
        if gap is None:
            continue
        say(str(gap))
        try:
            await node.refresh()
        except SwarmError as error:
            say(f"cannot read the swarm's records yet: {error}")
        say(what_is_found(node, leading(), time.time()))


def what_is_found(node: RunNode, slot: str, now_s: float) -> str:
    """Returns in words whether this peer still leads, and where the tips are."""
    if not slot:
        return (
            "no slot is this peer's; tips are: "
            f"{', '.join(_tip_words(node, name) for name in node.spec.slots)}"
        )
    view = node.board.view(slot)
    lead = lead_of(view.claims, view.tip, now_s, view.timing, view.heard, view.floor)
    if lead is None:
        who = "its claim ran out and nobody came: it claims anew"
    elif lead.signer == node.peer_id:
        who = "it leads still"
    else:
        who = f"{lead.signer[-8:]} leads now, and this peer starts again from the tip or stands by"
    return f"{slot}: {who}; {_tip_words(node, slot)}"


def _tip_words(node: RunNode, slot: str) -> str:
    tip = node.board.tip(slot)
    if tip is None:
        return f"{slot} has no tip"
    whose = "this peer's" if tip.card.signer == node.peer_id else f"{tip.card.signer[-8:]}'s"
    return f"{slot} is at seq {tip.card.record.seq}, {whose}"


def read_clocks() -> Clocks:
    """Returns the clock that counts sleep too, where there is one, and the time of day."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # Linux counts sleep in the first alone
    return Clocks(time.clock_gettime(clock), time.time())
