"""What an attestor's gate needs to check a crew's card: its rounds opened and judged by their records, their
updates and the state before them on this disk, each within bounds before it is fetched.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from paris_p2p.crew_records import CrewSpec
from paris_p2p.envelope import Envelope
from paris_p2p.errors import (
    CheckpointError,
    DiskFullError,
    MissingKeyError,
    RecordError,
    SealError,
    VersionError,
)
from paris_p2p.node.merged_states import MergedStates
from paris_p2p.node.run_node import RunNode
from paris_p2p.node.update_copies import largest_update_bytes
from paris_p2p.peer.crew_files import (
    named,
    opened_basis,
    opened_each,
    opened_rounds,
    read_rounds,
    update_blobs,
)
from paris_p2p.peer.jobs import fewer_experts
from paris_p2p.records import CardRecord
from paris_p2p.rules.left_out import Disputed, disputed_updates
from paris_p2p.rules.refusals import REASONS
from paris_p2p.rules.rest import goes_back
from paris_p2p.rules.round_checks import (
    CrewRules,
    OpenedRound,
    StateBefore,
    crew_batch_clips,
    new_rounds,
    refuse_rounds,
    state_before,
)
from paris_p2p.rules.rounds import HeardUpdate
from paris_p2p.rules.tips import Tip
from paris_p2p.training.counted_note import read_counted
from paris_p2p.training.crew_messages import Basis, UpdateFile
from paris_p2p.training.messages import GateResult
from paris_p2p.training.needs import parameter_count

STATE_BYTES_PER_PARAMETER = 12
_STATE_HEAD_BYTES = 4096

Fields = dict[str, Any]  # of a CrewGateJob


class _RefusedError(Exception):
    def __init__(self, code: str, words: str):
        super().__init__(words)
        self.result = GateResult(ok=False, code=code, reason=f"{REASONS[code]}: {words}")


@dataclass(frozen=True)
class _Card:
    """A crew's card after the tip, with its rounds: those of the state that the new ones merge into, and the
    new ones; none of a card that goes back.
    """

    card: Envelope[CardRecord]
    of: Envelope[CardRecord]  # whose state `old` led to
    old: tuple[OpenedRound, ...]
    new: tuple[OpenedRound, ...]
    crew: CrewSpec

    @property
    def record(self) -> CardRecord:
        return self.card.record


@asynccontextmanager
async def crew_fields(
    node: RunNode, card: Envelope[CardRecord], tip: Tip, states: MergedStates, held: str
) -> AsyncIterator[Fields | GateResult]:
    """Yields what a gate's job says of a crew's card, readable while the block lasts; the verdict where the
    records or sizes refuse it. The card's blobs are held for `held`, where that is named, also afterwards.
    """
    async with AsyncExitStack() as files:
        try:
            fields = await _fields(node, card, tip, states, held, files)
        except _RefusedError as refused:
            yield refused.result
            return
        yield fields


async def _fields(
    node: RunNode,
    card: Envelope[CardRecord],
    tip: Tip,
    states: MergedStates,
    held: str,
    files: AsyncExitStack,
) -> Fields:
    one = await _opened(node, card, tip)
    rules = _rules(node, one)
    before = state_before(one.of, one.old[-1] if one.old else None)
    if one.new and (why := refuse_rounds(card, before, one.new, rules)) is not None:
        raise _RefusedError("round", why)
    _refuse_sizes(one)
    refs = await node.fetch_card(card)
    if held:
        node.hold(held, {ref.id for ref in refs})
    basis = await _basis(node, one, states, files)
    if one.new and before.counted is None:
        before = replace(before, counted=await asyncio.to_thread(read_counted, basis.resume_path))
        if (why := refuse_rounds(card, before, one.new, rules)) is not None:
            raise _RefusedError("round", why)
    try:
        opened = opened_rounds(node, card.id, one.new, f"gate/{card.id}/new")
        rounds = await files.enter_async_context(opened)
    except SealError as error:
        raise _RefusedError("malformed", str(error)) from error
    return {
        "crew": one.crew,
        "basis": basis,
        "rounds": rounds,
        "merged": one.record.merged,
        "light": one.record.is_light,
        "state_out": await _state_out(node, one, states, files),
        "disputed": await _disputed(node, one, before, rules, files),
        **await _own_files(node, one, basis, files),
    }


async def _opened(node: RunNode, card: Envelope[CardRecord], tip: Tip) -> _Card:
    """Opens a card's rounds, and those of the tip where they lead to other files than the card's."""
    crew, record, parent = node.spec.crew, card.record, tip.card
    if crew is None:
        raise _RefusedError("round", "the run has no crews")
    known = min(record.notices, node.state.number)
    if fewer_experts(node, record.slot, parent.record.notices, known):
        raise _RefusedError("round", "its network is another than its parent's")
    try:
        rounds = await read_rounds(node, card)
    except (MissingKeyError, VersionError):
        raise
    except (RecordError, SealError) as error:
        raise _RefusedError("round", str(error)) from error
    if goes_back(record, tip):
        return _Card(card, card, rounds, (), crew)
    new = rounds[len(rounds) - len(new_rounds(record, parent.record)) :]
    old = rounds[: -len(new)] if parent.record.is_light else await read_rounds(node, parent)
    return _Card(card, parent, old, new, crew)


def _rules(node: RunNode, one: _Card) -> CrewRules:
    slot = one.record.slot
    known = dict(node.board.slots[slot].cards)
    known |= {tip.card.id: tip.card for tip in node.board.slots[slot].past.values()} | {one.of.id: one.of}
    return CrewRules(one.crew, crew_batch_clips(node.spec, slot), node.state.counts, known)


def _refuse_sizes(one: _Card) -> None:
    limit_bytes = largest_update_bytes(one.record.weights.size_bytes, one.crew)
    for ref in update_blobs(one.new):
        if ref.size_bytes > limit_bytes:
            raise _RefusedError("size", f"an update of {ref.size_bytes} bytes, {limit_bytes} are the most")


async def _basis(node: RunNode, one: _Card, states: MergedStates, files: AsyncExitStack) -> Basis:
    """Returns the state that the new rounds merge into: as it was computed here before, else its files."""
    record = one.of.record
    if record.merged and (path := states.find(record.merged)) is not None:
        return Basis(
            card=one.of.id,
            weights_path=path,
            resume_path=path,
            start_steps=record.steps,
            start_clips=record.clips,
            merged_start=record.merged,
            state_path=path,
        )
    return await files.enter_async_context(opened_basis(node, one.of, one.old, f"gate/{one.card.id}/basis"))


async def _own_files(node: RunNode, one: _Card, basis: Basis, files: AsyncExitStack) -> Fields:
    """Returns the card's own files where its gate reads them: those of a full card that trained on."""
    record = one.record
    if record.is_light or not one.new:
        return {"weights_path": basis.weights_path, "resume_path": basis.resume_path}
    opened = node.readable([record.weights, record.resume], one.card.id, f"gate/{one.card.id}")
    try:
        weights, resume = await files.enter_async_context(opened)
    except SealError as error:
        raise _RefusedError("malformed", str(error)) from error
    return {"weights_path": weights, "resume_path": resume}


async def _state_out(node: RunNode, one: _Card, states: MergedStates, files: AsyncExitStack) -> Path:
    """Returns where the gate writes the card's state, with room for it."""
    slot = one.record.slot
    size_bytes = STATE_BYTES_PER_PARAMETER * parameter_count(node.spec, slot) + _STATE_HEAD_BYTES
    args = slot, one.record.merged, size_bytes
    try:
        return files.enter_context(states.making(*args))
    except DiskFullError:
        if not await asyncio.to_thread(node.host.make_room, size_bytes):
            raise
        return files.enter_context(states.making(*args))


async def _disputed(
    node: RunNode, one: _Card, before: StateBefore, rules: CrewRules, files: AsyncExitStack
) -> tuple[tuple[UpdateFile, str], ...]:
    """Returns the updates that this peer holds and the card should have merged, with their files."""
    if not one.new:
        return ()
    found = disputed_updates(
        one.card,
        before,
        one.new,
        await asyncio.to_thread(_held_updates, node, one),
        rules,
        me=node.peer_id,
        round_s=one.of.record.round_s or node.spec.timing.checkpoint_s,
    )
    return await _with_files(node, one, found, files)


async def _with_files(
    node: RunNode, one: _Card, found: Sequence[Disputed], files: AsyncExitStack
) -> tuple[tuple[UpdateFile, str], ...]:
    refs = [each.update.record.blob for each in found]
    # one that cannot be read disputes nothing
    opened = opened_each(node, refs, one.card.id, f"gate/{one.card.id}/disputed")
    paths = await files.enter_async_context(opened)
    envelopes = {envelope.id: envelope for envelope in node.board.updates(one.record.slot)}
    return tuple(
        (named(envelopes[each.update.id], path, late=each.late), each.reason)
        for each, path in zip(found, paths, strict=True)
        if path is not None and each.update.id in envelopes
    )


def _held_updates(node: RunNode, one: _Card) -> list[HeardUpdate]:
    """Returns the updates of the slot whose record and file are here, and since when."""
    limit_bytes, held = largest_update_bytes(one.record.weights.size_bytes, one.crew), []
    for update in node.board.updates(one.record.slot):
        heard_s, ref = node.board.heard_at(update.id), update.record.blob
        if heard_s is None or ref.size_bytes > limit_bytes or not node.host.store.has(ref.id):
            continue
        try:
            since_s = node.host.store.path(ref.id).stat().st_mtime
        except OSError:
            continue  # it went meanwhile
        held.append(HeardUpdate(update.id, update.signer, update.record, max(heard_s, since_s)))
    return held


async def refuse_counts(
    node: RunNode, card: Envelope[CardRecord], resume: Path, tip: Tip | None
) -> GateResult | None:
    """Returns the verdict on a card of one lead alone whose resume state counts other clips of a crew's peers
    than the card before it, as far as that is known here; None where it does not.

    Its maker's own are not compared: it may have gone on from the card before, while its last round, of its
    own update alone, became the tip.
    """
    if node.spec.crew is None or (expected := await _counted_before(node, tip)) is None:
        return None
    try:
        found = await asyncio.to_thread(read_counted, resume)
    except CheckpointError as error:
        return GateResult(ok=False, code="malformed", reason=str(error))
    for counts in (found, expected):
        counts.pop(card.signer, None)
    if found == expected:
        return None
    words = f"{REASONS['round']}: its resume state counts clips of {len(found)} peers otherwise than before"
    return GateResult(ok=False, code="round", reason=words)


async def _counted_before(node: RunNode, tip: Tip | None) -> dict[str, int] | None:
    """Returns what was counted up to the tip; None where that is not known here.

    Before a slot's first card it is nobody: a lead that filled it with peers of its own would leave others no
    place ever after.
    """
    if tip is None:
        return {}
    before = tip.card.record
    if before.rounds:
        last = (await read_rounds(node, tip.card))[-1]
        return {each.peer: each.next for each in last.made.counted}
    if node.host.store.has(before.resume.id) and not node.spec.private:
        return await asyncio.to_thread(read_counted, node.host.store.path(before.resume.id))
    return None
