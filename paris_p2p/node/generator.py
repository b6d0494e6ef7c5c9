"""A generator's node: it fetches the tips' weights, the codec and the text encoder once, verified, and finds
them again offline.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from paris_p2p.disk import explained, write_atomic
from paris_p2p.envelope import Envelope
from paris_p2p.errors import (
    DiskFullError,
    InviteError,
    MissingBlobError,
    MissingKeyError,
    RecordError,
    RevokedError,
    UsageError,
)
from paris_p2p.fetched_run import FetchedRun, check_slots
from paris_p2p.invite import Invite
from paris_p2p.node.host import Host, spec_path
from paris_p2p.node.joining import GENERATOR_DIR, join_run, newcomer_host, newcomer_of
from paris_p2p.node.plain_files import OpenedFiles, PlainFiles, StoreFiles, opened_folder
from paris_p2p.node.run_keys import RunKeys
from paris_p2p.node.run_node import RunNode, opened
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.progress import Progress
from paris_p2p.records import BlobRef, CardRecord
from paris_p2p.rules.expert_set import generating_spec, stands_for
from paris_p2p.rules.standing import standing
from paris_p2p.run_file import read_run
from paris_p2p.shown import say
from paris_p2p.spec import ROUTER, RunSpec
from paris_p2p.store.blobs import BlobStore

if TYPE_CHECKING:
    from paris_p2p.flow.mixture import Routing

_KEY_WAITS_S = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 0.0)  # before each question for a key
FETCH_ONLINE = "run `paris-peer fetch INVITE` once, online"


class FetchedSlot(BaseModel):
    model_config = ConfigDict(frozen=True)

    card: str
    weights: BlobRef
    behind: int = 0  # rounds of its crew since the weights were published in full


class Fetched(BaseModel):
    """What one fetch brought; written last, so that an interrupted fetch leaves the one before."""

    model_config = ConfigDict(frozen=True)

    slots: dict[str, FetchedSlot]
    effective: RunSpec | None = (
        None  # with the set of experts that the router knows, where notices changed it
    )


def fetched_slot(card: Envelope[CardRecord]) -> FetchedSlot:
    """Returns what is fetched of a tip: its weights, which of a crew's light card are those of the full card
    before it.
    """
    record = card.record
    return FetchedSlot(
        card=card.id, weights=record.weights, behind=len(record.rounds) if record.is_light else 0
    )


def fetch_run(
    settings: PeerSettings,
    invite: Invite,
    *,
    partial: bool = False,
    offline: bool = False,
    routing: Routing | None = None,
    progress: Progress = lambda *_: None,
) -> FetchedRun:
    """Brings every slot's tip weights here, skipping what is here already; offline, it finds what an earlier
    fetch brought. The files can be read until the result, a context manager, is left.

    SlotMissingError names the slots without a tip, unless `partial` allows for them; UsageError when the
    `routing` to be used needs more.
    """
    home = settings.model_copy(update={"data_dir": settings.data_dir / GENERATOR_DIR})
    if offline:
        return _find(home, invite, partial, routing)
    brought = _fetch(home, settings.data_dir / "blobs", invite, partial, routing, progress)
    return _fetched_run(*asyncio.run(brought))


def check_wanted(spec: RunSpec, present: set[str], partial: bool, routing: Routing | None) -> None:
    """Raises SlotMissingError as check_slots does, and UsageError when the `routing` asks for more experts
    than the run has, or for a router that is not there.
    """
    experts = len(spec.slots) - 1
    if routing is not None and routing.name == "top_k" and routing.top_k > experts:
        there = "1 expert" if experts == 1 else f"{experts} experts"
        raise UsageError(f"--top-k {routing.top_k}: this run has {there}, so at most --top-k {experts}")
    check_slots(spec, present, partial=partial)
    if routing is not None:
        routing.check_router(ROUTER in present, len(present - {ROUTER}))


async def _fetch(
    settings: PeerSettings,
    neighbour: Path,
    invite: Invite,
    partial: bool,
    routing: Routing | None,
    progress: Progress,
) -> tuple[BlobStore, Path, Envelope[RunSpec], Fetched]:
    progress("joining the run", 0, 1)
    newcomer = newcomer_of(neighbour.parent, is_generator=True, say=say)
    async with newcomer_host(settings, invite, newcomer) as host:
        run = await join_run(host, invite, newcomer)
        async with opened(host, run) as node:
            await catch_up(node)
            progress("joining the run", 1, 1)
            spec, tips = generating_set(node)
            check_wanted(spec, set(tips), partial, routing)
            slots = {slot: fetched_slot(card) for slot, card in tips.items()}
            wanted = [(run.id, ref) for pinned in node.spec.models for ref in pinned.files.values()]
            wanted += [(slot.card, slot.weights) for slot in slots.values()]
            await _fetch_all(node, wanted, neighbour, progress)
            fetched = Fetched(slots=slots, effective=None if spec == run.record else spec)
            path = _fetched_path(settings.data_dir, run.id)
            with explained(path):
                write_atomic(path, fetched.model_dump_json())
            if spec.private:
                await asyncio.to_thread(_make_room_to_open, host, [ref for _, ref in wanted])
            return host.store, settings.data_dir, run, fetched


async def catch_up(node: RunNode) -> None:
    """Brings the keys that a private run got since this peer was here: without them it sees old tips only.

    RevokedError where the owner ended this peer's part, MissingKeyError where nobody gives it the newest key.
    """
    for wait_s in _KEY_WAITS_S:
        _check_member(node)
        if not node.keys.is_behind:
            return
        await asyncio.sleep(wait_s)
        if await node.exchange.ask():
            await node.ask_connected()
            await node.refresh()
    raise MissingKeyError(
        f"the run has a new key, number {len(node.state.key_hashes)}, and no member that was asked gave it "
        "to this peer; try again when more are online"
    )


def _check_member(node: RunNode) -> None:
    """Raises RevokedError where the owner ended this machine's part, InviteError where it ended by itself."""
    state, me = node.state, node.peer_id
    own = node.membership.certificate
    machine = me if own is None else own.record.companion_of or me
    for peer in (me, machine):
        if state.is_revoked(peer):
            raise RevokedError(standing(state, peer).why)
    if state.signed.members_only and not state.is_member(me):
        raise InviteError(
            "this machine takes no part in the run any more: its certificate ended, or the peer that let it "
            "in was revoked; ask the run's owner for a new invite"
        )


def _make_room_to_open(host: Host, refs: list[BlobRef]) -> None:
    """Lets go what nobody needs, where the cap leaves no room for opened copies."""
    need_bytes = sum(ref.size_bytes for ref in refs)
    try:
        with host.store.room_beside(need_bytes):
            return
    except DiskFullError:
        host.make_room(need_bytes, [ref.id for ref in refs])


def generating_set(node: RunNode) -> tuple[RunSpec, dict[str, Envelope[CardRecord]]]:
    """Returns the RunSpec with the set of experts that generate now, and the card of each slot of it that has
    weights: an expert without a tip has its ancestor's. MissingBlobError when the router knows notices that
    are not known here.
    """
    router, state = node.board.tip(ROUTER), node.state
    notices = None if router is None else router.card.record.notices
    if notices is not None and notices > state.number:
        raise MissingBlobError(
            f"the router's checkpoint knows notice {notices} of the run's owner, and no peer that was asked "
            f"told more than {state.number}; try again when more are online"
        )
    spec = generating_spec(state, notices)
    tips = {slot: tip.card for slot in node.board.slots if (tip := node.board.tip(slot)) is not None}
    return spec, {slot: tips[own] for slot in spec.slots if (own := stands_for(spec, slot, tips))}


async def _fetch_all(
    node: RunNode, wanted: list[tuple[str, BlobRef]], neighbour: Path, progress: Progress
) -> None:
    """Brings every blob here, from the store of this machine's own peer where that has it."""
    total = sum(ref.size_bytes for _, ref in wanted)
    done = 0
    if neighbour.is_dir():
        beside = BlobStore(neighbour)
        for _, ref in wanted:
            if not node.host.store.has(ref.id) and beside.has(ref.id):
                await asyncio.to_thread(node.host.store.add_file, beside.path(ref.id))
    progress("fetching bytes", 0, total)
    for what, ref in wanted:

        def count(received: int, before: int = done) -> None:
            progress("fetching bytes", min(total, before + received), total)

        await node.fetch([ref], what, count)
        done += ref.size_bytes
        progress("fetching bytes", done, total)


def _find(settings: PeerSettings, invite: Invite, partial: bool, routing: Routing | None) -> FetchedRun:
    """Returns what an earlier fetch brought; MissingBlobError or RecordError where that is not whole."""
    data_dir = settings.data_dir
    spec_file, path = spec_path(data_dir, invite.run), _fetched_path(data_dir, invite.run)
    if not (spec_file.exists() and path.exists()):
        raise MissingBlobError(f"run {invite.run[:16]}… was never fetched to {data_dir}; {FETCH_ONLINE}")
    run = read_run(spec_file, invite.run, mend=FETCH_ONLINE)
    try:
        fetched = Fetched.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise RecordError(f"{path} is damaged; {FETCH_ONLINE}") from error
    check_wanted(fetched.effective or run.record, set(fetched.slots), partial, routing)
    try:
        store = BlobStore(data_dir / "blobs", settings.max_disk_bytes)
        return _fetched_run(store, data_dir, run, fetched)
    except MissingBlobError as error:
        raise MissingBlobError(
            f"{error}, though it was fetched once; run `paris-peer fetch INVITE` again, online"
        ) from error


def _fetched_run(store: BlobStore, data_dir: Path, run: Envelope[RunSpec], fetched: Fetched) -> FetchedRun:
    folder, spec = data_dir / "runs" / run.id, run.record
    text, first = spec.text, spec.first_features
    with ExitStack() as closing:
        files: PlainFiles = StoreFiles(store, folder)
        if spec.private:
            opened = closing.enter_context(opened_folder(data_dir))
            files = OpenedFiles(store, RunKeys(folder), opened, closing)
        return FetchedRun(
            signed=run,
            weights={slot: files.weights(slot, entry.weights) for slot, entry in fetched.slots.items()},
            cards={slot: entry.card for slot, entry in fetched.slots.items()},
            codec_folder=files.folder("codec", spec.codec),
            text_folder=files.folder("text", text) if text.files else None,
            features_folder=files.folder("features", first) if first and first.files else None,
            effective=fetched.effective,
            behind={slot: entry.behind for slot, entry in fetched.slots.items() if entry.behind},
            closing=closing.pop_all(),
        )


def _fetched_path(data_dir: Path, run_id: str) -> Path:
    return data_dir / "runs" / run_id / "fetched.json"
