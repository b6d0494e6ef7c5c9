"""A generator's side: fetch the tips' weights, the codec and the text encoder once, verified, and use them
offline.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from paris_p2p.disk import explained, write_atomic
from paris_p2p.envelope import Envelope
from paris_p2p.errors import MissingBlobError, RecordError, SlotMissingError, UsageError
from paris_p2p.node.host import Host, join_run, load_spec, open_host, spec_path
from paris_p2p.node.run_node import RunNode, opened
from paris_p2p.progress import Progress
from paris_p2p.records import BlobRef
from paris_p2p.spec import ROUTER, Invite, PeerSettings, Pinned, RunSpec
from paris_p2p.store.blobs import BlobStore

if TYPE_CHECKING:
    from paris_p2p.flow.mixture import Routing

GENERATOR_DIR = "generator"  # its own key and lock, so that it works beside a running peer


class FetchedSlot(BaseModel):
    model_config = ConfigDict(frozen=True)

    card: str
    weights: BlobRef


class Fetched(BaseModel):
    """What one fetch brought; written last, so that an interrupted fetch leaves the one before."""

    model_config = ConfigDict(frozen=True)

    slots: dict[str, FetchedSlot]


@dataclass(frozen=True)
class Models:
    """Verified local files: all that generating needs."""

    run: str
    spec: RunSpec
    spec_path: Path
    weights: dict[str, Path]  # by slot
    cards: dict[str, str]  # by slot
    codec_folder: Path
    text_folder: Path | None
    features_folder: Path | None = None

    def job_fields(self) -> dict[str, Any]:
        return {
            "run": self.run,
            "spec_path": self.spec_path,
            "weights": self.weights,
            "cards": self.cards,
            "codec_folder": self.codec_folder,
            "text_folder": self.text_folder,
            "features_folder": self.features_folder,
        }


def fetch_models(
    settings: PeerSettings,
    invite: Invite,
    *,
    partial: bool = False,
    offline: bool = False,
    routing: Routing | None = None,
    progress: Progress | None = None,
) -> Models:
    """Bring every slot's tip weights here, skipping what is here already; offline, use what an earlier fetch
    brought.

    SlotMissingError names the slots without a tip, unless `partial` allows for them; UsageError when the
    `routing` to be used needs more.
    """
    home = settings.model_copy(update={"data_dir": settings.data_dir / GENERATOR_DIR})
    if offline:
        return _offline(home, invite, partial, routing)
    return asyncio.run(
        _fetch(home, settings.data_dir / "blobs", invite, partial, routing, progress or (lambda *_: None))
    )


async def _fetch(
    settings: PeerSettings,
    neighbour: Path,
    invite: Invite,
    partial: bool,
    routing: Routing | None,
    progress: Progress,
) -> Models:
    host_context: AbstractAsyncContextManager[Host] = open_host(settings, invite.peers)
    progress("joining the run", 0, 1)
    async with host_context as host:
        run = await join_run(host, invite)
        async with opened(host, run) as node:
            progress("joining the run", 1, 1)
            tips = {slot: tip for slot in node.spec.slots if (tip := node.board.tip(slot)) is not None}
            check_slots(node.spec, set(tips), partial, routing)
            slots = {
                slot: FetchedSlot(card=tip.card.id, weights=tip.card.record.weights)
                for slot, tip in tips.items()
            }
            wanted = [(run.id, ref) for pinned in node.spec.models for ref in pinned.files.values()]
            wanted += [(slot.card, slot.weights) for slot in slots.values()]
            await _fetch_all(node, wanted, neighbour, progress)
            fetched = Fetched(slots=slots)
            path = _fetched_path(settings.data_dir, run.id)
            with explained(path):
                write_atomic(path, fetched.model_dump_json())
            return _models(host.store, settings.data_dir, run, fetched)


async def _fetch_all(
    node: RunNode, wanted: list[tuple[str, BlobRef]], neighbour: Path, progress: Progress
) -> None:
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


def check_slots(spec: RunSpec, present: set[str], partial: bool, routing: Routing | None = None) -> None:
    """SlotMissingError, naming them, when slots have no tip: a partial mixture still needs one expert.

    UsageError when the `routing` that it is fetched for asks the router to choose among several, and that is
    missing.
    """
    if routing is not None and routing.name == "top_k" and routing.top_k > spec.experts:
        there = "1 expert" if spec.experts == 1 else f"{spec.experts} experts"
        raise UsageError(f"--top-k {routing.top_k}: this run has {there}, so at most --top-k {spec.experts}")
    missing = [slot for slot in spec.slots if slot not in present]
    if not missing:
        return
    if not partial:
        raise SlotMissingError(
            f"no checkpoint was attested yet for {', '.join(missing)}; wait until the run has trained them, "
            "or use --allow-partial "
            "to route among the others"
            + (" (without the router, with --routing uniform)" if ROUTER in missing else "")
        )
    if not present - {ROUTER}:
        raise SlotMissingError(
            f"no expert has a checkpoint yet ({', '.join(missing)} are missing); "
            "there is nothing to generate with"
        )
    if routing is not None:
        routing.check_router(ROUTER in present, len(present - {ROUTER}))


def _offline(settings: PeerSettings, invite: Invite, partial: bool, routing: Routing | None) -> Models:
    run = load_spec(settings.data_dir, invite.run)
    path = _fetched_path(settings.data_dir, invite.run)
    if run is None or not path.exists():
        raise MissingBlobError(
            f"run {invite.run[:16]}… was never fetched to {settings.data_dir}; "
            "run `paris-peer fetch INVITE` once, online"
        )
    try:
        fetched = Fetched.model_validate_json(path.read_text())
    except ValidationError as error:
        raise RecordError(f"{path} is damaged; run `paris-peer fetch INVITE` once, online") from error
    check_slots(run.record, set(fetched.slots), partial, routing)
    try:
        return _models(BlobStore(settings.data_dir / "blobs"), settings.data_dir, run, fetched)
    except MissingBlobError as error:
        raise MissingBlobError(
            f"{error}, though it was fetched once; run `paris-peer fetch INVITE` again, online"
        ) from error


def _models(store: BlobStore, data_dir: Path, run: Envelope[RunSpec], fetched: Fetched) -> Models:
    folder = data_dir / "runs" / run.id
    spec, first = run.record, run.record.first_features
    return Models(
        run=run.id,
        spec=spec,
        spec_path=spec_path(data_dir, run.id),
        weights={slot: store.path(entry.weights.id) for slot, entry in fetched.slots.items()},
        cards={slot: entry.card for slot, entry in fetched.slots.items()},
        codec_folder=_lay_out(store, spec.codec, folder / "codec"),
        text_folder=_lay_out(store, spec.text, folder / "text") if spec.text.files else None,
        features_folder=_lay_out(store, first, folder / "features")
        if first is not None and first.files
        else None,
    )


def _lay_out(store: BlobStore, pinned: Pinned, folder: Path) -> Path:
    """A codec's or encoder's folder of links into the store, and nothing else; Pinned has checked the
    names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.name not in pinned.files:
            path.unlink() if path.is_file() or path.is_symlink() else shutil.rmtree(path)
    for name, ref in pinned.files.items():
        path, blob = folder / name, store.path(ref.id)
        if not (path.is_file() and path.samefile(blob)):
            path.unlink(missing_ok=True)
            os.link(blob, path)
    return folder


def _fetched_path(data_dir: Path, run_id: str) -> Path:
    return data_dir / "runs" / run_id / "fetched.json"
