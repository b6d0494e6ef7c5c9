"""What became of a run so far, from what this node keeps and what others tell: for `paris-run history`,
`paris-run receipts`, reports and the dashboard.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paris_p2p.crew_records import UpdateRecord
from paris_p2p.envelope import Envelope
from paris_p2p.errors import ParisError
from paris_p2p.invite import Invite
from paris_p2p.keyring import Keyring, load_keyring
from paris_p2p.node.board import Board
from paris_p2p.node.history_reading import ToldHistory, proven_tips
from paris_p2p.node.joining import GENERATOR_DIR, join_run, newcomer_host, newcomer_of
from paris_p2p.node.kept_history import KeptHistory
from paris_p2p.node.kept_tips import tips_in_ledger
from paris_p2p.node.owners_word import Opener, OwnersWord
from paris_p2p.node.run_node import RunNode, opened
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.round_file import decode_round
from paris_p2p.rules.history import HistoryLine, TipLink, history_lines, lineage, proven
from paris_p2p.rules.run_state import RunState
from paris_p2p.rules.tips import Tip
from paris_p2p.shown import say
from paris_p2p.spec import RunSpec
from paris_p2p.store.ledger import Ledger
from paris_p2p.store.sealing import open_small

log = logging.getLogger(__name__)
_Update = Envelope[UpdateRecord]


@dataclass(frozen=True)
class HistorySource:
    """Says from what a run's past was read: what a proof of it consists of."""

    run: Envelope[RunSpec]
    word: OwnersWord
    kept: KeptHistory
    ring: Keyring  # of a private run


@dataclass(frozen=True)
class RunHistory:
    """Is a run's past: each slot's lineage, and what its crews' rounds merged, verified."""

    state: RunState
    links: Mapping[str, tuple[TipLink, ...]]  # by slot, the oldest first
    merged: Mapping[str, tuple[_Update, ...]] = field(default_factory=dict)  # by the id of a round
    told: tuple[ToldHistory, ...] = ()  # by whom, where others were asked
    source: HistorySource | None = None

    def lines(self) -> dict[str, tuple[HistoryLine, ...]]:
        """Returns a line for each tip, by slot."""
        return {slot: history_lines(links) for slot, links in self.links.items()}


def ask_history(settings: PeerSettings, invite: Invite, *, rounds: bool = False) -> RunHistory:
    """Joins a run as a generator does and asks its peers for all past tips, with the crews' rounds if these
    are wanted; the errors are those of joining. What comes is kept, so that the next call asks for less.
    """
    home = settings.model_copy(update={"data_dir": settings.data_dir / GENERATOR_DIR})
    return asyncio.run(_ask(home, settings.data_dir, invite, rounds=rounds))


async def _ask(settings: PeerSettings, neighbour: Path, invite: Invite, *, rounds: bool) -> RunHistory:
    newcomer = newcomer_of(neighbour, is_generator=True, say=say)
    async with newcomer_host(settings, invite, newcomer) as host:
        run = await join_run(host, invite, newcomer)
        async with opened(host, run) as node:
            told = await node.history.ask(node.state.slots_ever, rounds=rounds)
            return await asyncio.to_thread(known_history, node, tuple(told))


def known_history(node: RunNode, told: tuple[ToldHistory, ...] = ()) -> RunHistory:
    """Returns what a running node knows of its run's past; it reads the disk and verifies, in a thread."""
    state, board = node.state, node.board
    links = {slot: lineage(proven_tips(board, slot)) for slot in state.slots_ever if slot in board.slots}
    merged = merged_updates(node.board.history, node.keys.ring, node.run, node.word.open, state, links)
    source = HistorySource(node.run_envelope, node.word, node.board.history, node.keys.ring)
    return RunHistory(state, links, merged, told, source)


def board_lines(board: Board, slot: str) -> tuple[HistoryLine, ...]:
    """Returns lines of the last tips, those that a node has in memory: what status and estimates read."""
    return history_lines(lineage(board.tips(slot)))


def history_on_disk(data_dir: Path, run: Envelope[RunSpec], opener: Opener) -> RunHistory:
    """Returns what a node's data directory holds of its run's past, without a network; it changes nothing
    there, so that a node may be at work on it.
    """
    folder = data_dir / "runs" / run.id
    if not (folder / "ledger").is_dir():
        state = OwnersWord(run.id, run.record, Ledger(folder / "ledger"), opener).state
        return RunHistory(state, {})
    ledger = Ledger(folder / "ledger")
    word = OwnersWord(run.id, run.record, ledger, opener)  # with the members' certificates
    state = word.state
    kept, now_s = KeptHistory(folder / "history", opener), time.time()

    def tips(slot: str) -> Iterable[Tip]:
        for one in (*kept.tips(slot), *tips_in_ledger(ledger, opener, slot)):
            if (tip := proven(one, state, now_s)) is not None:
                yield tip

    links = {slot: lineage(tips(slot)) for slot in state.slots_ever}
    ring = load_keyring(folder)
    merged = merged_updates(kept, ring, run.id, opener, state, links)
    return RunHistory(state, links, merged, source=HistorySource(run, word, kept, ring))


def merged_updates(
    kept: KeptHistory,
    ring: Keyring,
    run: str,
    opener: Opener,
    state: RunState,
    links: Mapping[str, tuple[TipLink, ...]],
) -> dict[str, tuple[_Update, ...]]:
    """Returns the updates that each round merged which a tip names and which is here, signatures verified."""
    merged: dict[str, tuple[_Update, ...]] = {}
    for slot, of_slot in links.items():
        wanted = {ref.id for link in of_slot for ref in link.tip.card.record.rounds}
        for id, data in kept.rounds(slot, wanted):
            try:
                merged[id] = updates_in(data, run, slot, opener, state, key_finder(ring))
            except ParisError as error:
                log.info("round %s… of %s is left out: %s", id[:16], slot, error)
    return merged


def updates_in(
    data: bytes,
    run: str,
    slot: str,
    opener: Opener,
    state: RunState,
    key_of: Callable[[bytes], Any],
) -> tuple[_Update, ...]:
    """Returns the updates that a round merged, verified; those that count by the owner's word."""
    plain = open_small(data, key_of) if state.signed.private else data
    made = decode_round(plain, run, slot)
    updates = (opener(one.envelope, ("update",)) for one in made.updates)
    return tuple(one for one in updates if one.record.slot == slot and state.counts(one))


def key_finder(ring: Keyring) -> Callable[[bytes], Any]:
    """Returns what finds a key by its hint."""
    return lambda hint: next((key for key in ring.keys if key.hint == hint), None)
