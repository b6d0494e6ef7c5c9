"""Cards of a crew on a fake network, without a trainer: what matters is who has which files."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from paris_p2p.crew_records import (
    SCALE_ONE,
    Counted,
    CrewRound,
    CrewSpec,
    MergedUpdate,
    UpdateRecord,
    WorkerRecord,
)
from paris_p2p.envelope import Envelope
from paris_p2p.identity import Identity
from paris_p2p.node.host import Host
from paris_p2p.node.own_updates import sign_update, tell_update
from paris_p2p.node.publish import sign_checkpoint, tell_card
from paris_p2p.node.run_node import RunNode
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.records import AttestationRecord, CardRecord
from paris_p2p.round_file import encode_round
from paris_p2p.rules.next_card import NewCheckpoint, NewRound
from paris_p2p.store.blobs import BlobStore
from tests.peer.world import World

SLOT = "expert-0"
CREW = CrewSpec(peers=4)
_NUMBERS = itertools.count()


def host_in(world: World, name: str, identity: Identity | None = None) -> Host:
    """A host of the world's network, with a folder that a later one of the same name finds again."""
    identity, home = identity or Identity.generate(), world.root / name
    host = Host(PeerSettings(data_dir=home), identity, BlobStore(home / "blobs"))
    host.swarm = world.network.join(identity, host)
    return host


def written(node: RunNode, words: str) -> Path:
    """A file of the node's, with words that no other has."""
    folder = node.host.settings.data_dir / "made"
    folder.mkdir(exist_ok=True)
    path = folder / f"{next(_NUMBERS)}"
    path.write_text(f"{words} {path.name}")
    return path


async def solo_card(node: RunNode) -> Envelope[CardRecord]:
    """The next checkpoint of a lead that trains alone, told to the others."""
    files = written(node, "weights expert-0"), written(node, "resume expert-0")
    tip = node.board.tip(SLOT)
    steps = tip.card.record.steps + 2 if tip else 2
    card = await sign_checkpoint(node, SLOT, 1, NewCheckpoint(*files, 8 * steps, steps, 1.0))
    await tell_card(node, card)
    return card


async def crew_update(node: RunNode, base: str, first_clip: int = 0) -> Envelope[UpdateRecord]:
    """A worker's update, told to the others."""
    path = written(node, "update expert-0")
    fields = {"base": base, "steps": 1, "clips": 8, "first_clip": first_clip, "train_loss": 1.0}
    update = await sign_update(node, SLOT, path, **fields)
    await tell_update(node, update)
    return update


async def crew_card(
    node: RunNode, updates: Sequence[Envelope[UpdateRecord]], *, full: bool = False
) -> Envelope[CardRecord]:
    """The card of the round that merges these updates into the slot's tip, told to the others."""
    tip = node.board.tip(SLOT)
    assert tip is not None
    before, ordered = tip.card.record, sorted(updates, key=lambda one: one.signer)
    made = CrewRound(
        run=node.run,
        slot=SLOT,
        lineage=(tip.card.id,),
        steps_before=before.steps,
        clips_before=before.clips,
        steps=before.steps + len(updates),
        clips=before.clips + 8 * len(updates),
        full=full,
        merged=f"{next(_NUMBERS):064x}",
        updates=tuple(MergedUpdate(envelope=one.data, late=0, scale=SCALE_ONE) for one in ordered),
        counted=tuple(Counted(peer=one.signer, next=8) for one in ordered),
    )
    path = written(node, "round")
    path.write_bytes(encode_round(made))
    names = NewRound(tip.card.id, path, before.rounds if before.is_light else (), made.merged, 60.0)
    if not full:
        names = NewRound(
            names.parent,
            path,
            names.before,
            made.merged,
            60.0,
            full=before.full or tip.card.id,
            blobs=(before.weights, before.resume),
        )
    files = (written(node, "weights expert-0"), written(node, "resume expert-0")) if full else (None, None)
    card = await sign_checkpoint(
        node, SLOT, before.epoch, NewCheckpoint(*files, made.clips, made.steps, 1.0, round=names)
    )
    await tell_card(node, card)
    return card


def worker_record(node: RunNode) -> WorkerRecord:
    """What a node says that works in the slot's crew."""
    head = node.header("worker", SLOT, node.spec.timing.claim_s)
    return WorkerRecord(**head, oldest_reader=5, joined_at=head["issued_at"])


async def attested(node: RunNode, card: Envelope[CardRecord]) -> Envelope[CardRecord]:
    """The card, which this node signs, so that it is the tip."""
    node.keep(card)
    record = card.record
    head = node.header("attestation", SLOT) | {"seq": record.seq, "epoch": record.epoch}
    await node.say(
        AttestationRecord(**head, card=card.id, best=card.id, loss=1.0, reference_loss=1.0, gate_clips=4)
    )
    return card
