"""Tests that the crew's swarm benchmark reads disks, troubles machines and finds faults as it claims to."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import psutil
import pytest

from bench.crew_swarm.cheat import unsigned
from bench.crew_swarm.cheating_trainer import Cheating, scaled
from bench.crew_swarm.evidence import Evidence
from bench.crew_swarm.findings import clips_left_behind, counted_twice, lineage, slot_facts
from bench.crew_swarm.machines import go_on, halt, kill, processes
from bench.crew_swarm.made import make_crew_run
from bench.crew_swarm.troubles import KINDS, Troublemaker
from examples.demo.processes import Node, wait_for_file
from paris_p2p.crew_records import SCALE_ONE, CrewSpec
from paris_p2p.envelope import Envelope, open_envelope, seal
from paris_p2p.errors import SignatureError
from paris_p2p.identity import Identity
from paris_p2p.preparation.create import load_run
from paris_p2p.records import AttestationRecord, CardRecord
from paris_p2p.round_file import encode_round
from paris_p2p.rules.round_checks import state_before
from paris_p2p.store.blobs import BlobStore
from paris_p2p.store.ledger import Ledger
from paris_p2p.training.crew_messages import UpdateFile
from tests.rules.made import NOW, RUN, SLOT, card
from tests.rules.made_rounds import light_card, opened_round, update
from tests.store.made import add_bytes

LEAD, WORKER, OWNER = (Identity.from_private_bytes(bytes([number]) * 32) for number in (1, 2, 3))
CHILD = """
import subprocess, sys, pathlib, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path(sys.argv[1]).write_text(str(child.pid))
time.sleep(600)
"""


@dataclass
class Length:
    """What scales are made of: an update's norm."""

    norm: float


def attested(one: Envelope[CardRecord]) -> Envelope[Any]:
    head: dict[str, Any] = {
        "run": RUN,
        "slot": SLOT,
        "seq": one.record.seq,
        "issued_at": NOW,
        "expires_at": NOW + 60.0,
    }
    head |= {"epoch": 1, "card": one.id, "best": one.id, "loss": 0.5, "reference_loss": 1.0, "gate_clips": 4}
    return seal(OWNER, AttestationRecord(**head))


def leave(folder: Path, cards: list[Envelope[CardRecord]]) -> Ledger:
    """Leaves attested cards in a peer's ledger: the last as the tip, the others as those before it."""
    ledger = Ledger(folder / "runs" / RUN / "ledger")
    for one in cards:
        place = f"tip/{SLOT}" if one is cards[-1] else f"past/{SLOT}/1-{one.record.seq}"
        ledger.put(place, msgpack.packb([one.data, attested(one).data]))
    return ledger


def as_named(one: Envelope[CardRecord], changes: dict[str, Any]) -> Envelope[CardRecord]:
    return seal(LEAD, one.record.model_copy(update=changes))


def two_rounds(folder: Path, second_from: int) -> Evidence:
    """Returns what a disk shows of a solo card and two light ones; the worker's second update begins at a
    clip of its stream.
    """
    store, cards, rounds = BlobStore(folder / "blobs"), [card(LEAD)], []
    newest = None
    for first in (0, second_from):
        before = state_before(cards[-1], newest)
        newest = opened_round(before, [update(LEAD, before.card, first), update(WORKER, before.card, first)])
        rounds.append(add_bytes(store, encode_round(newest.made)))
        more: dict[str, Any] = {"rounds": tuple(rounds)}
        cards.append(as_named(light_card(LEAD, cards[-1], [newest]), more))
    leave(folder, cards)
    evidence = Evidence(RUN, folder / "kept", lambda: [folder])
    evidence.kept.mkdir()
    evidence.look()
    return evidence


def until(what: Callable[[], bool]) -> None:
    """Waits for a condition that the kernel brings about."""
    ends_s = time.monotonic() + 60.0
    while not what():
        assert time.monotonic() < ends_s
        time.sleep(0.01)


def test_disks_show_the_lineage_its_rounds_and_who_contributed(tmp_path: Path) -> None:
    evidence = two_rounds(tmp_path, 50)
    assert [one.record.seq for one in lineage(evidence, SLOT)] == [1, 2, 3]
    assert all(list(one.attested_by) == [OWNER.peer_id] for one in evidence.cards.values())
    facts = slot_facts(evidence, SLOT, {LEAD.peer_id: "lead", WORKER.peer_id: "worker"})
    assert (facts["rounds"], facts["updates"], facts["merged_tips"]) == (2, 4, 2)
    assert facts["merged_clips_by_peer"] == {"lead": 100, "worker": 100}


def test_blobs_stay_after_the_node_forgot_them(tmp_path: Path) -> None:
    evidence = two_rounds(tmp_path, 50)
    ref = lineage(evidence, SLOT)[-1].record.rounds[0]
    BlobStore(tmp_path / "blobs").delete(ref.id)
    kept = evidence.path(ref)
    assert kept is not None
    assert kept.stat().st_size == ref.size_bytes


@pytest.mark.parametrize(("second_from", "twice", "left"), [(50, 0, 0), (49, 2, 0), (60, 0, 20)])
def test_clips_that_are_counted_twice_or_passed_over_are_found(
    tmp_path: Path, second_from: int, twice: int, left: int
) -> None:
    evidence = two_rounds(tmp_path, second_from)
    assert len(counted_twice(evidence, SLOT)) == twice
    assert clips_left_behind(evidence, SLOT) == left


def test_a_machine_stands_still_goes_on_and_dies_with_all_that_it_started(tmp_path: Path) -> None:
    said = tmp_path / "pid"
    node = Node("one", [sys.executable, "-c", CHILD, str(said)], tmp_path, tmp_path / "log").start()
    try:
        child = psutil.Process(int(wait_for_file(said, node)))
        assert child in processes(node)
        halt(node)
        until(lambda: child.status() == psutil.STATUS_STOPPED)
        go_on(node)
        until(lambda: child.status() != psutil.STATUS_STOPPED)
        assert kill(node) == [child]  # nothing of ours: it is not told to die with its parent
    finally:
        node.kill()
        child.kill()
    assert not node.running


def test_the_cheat_names_an_update_that_nobody_signed_and_halves_a_scale(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forged = unsigned(update(WORKER, "0a" * 32))
    with pytest.raises(SignatureError):
        open_envelope(forged.data, run=RUN, kinds=("update",))
    files = [
        UpdateFile(update="0b" * 32, signer=WORKER.peer_id, path=Path("x"), steps=1, clips=8, first_clip=0)
    ]
    monkeypatch.setattr(Cheating, "kind", "scale")
    assert [one.scale for one in scaled(files, [Length(2.0)])] == [SCALE_ONE // 2]


def test_every_trouble_is_one_that_can_be_made() -> None:
    assert all(callable(getattr(Troublemaker, name)) for name in KINDS.values())


def test_the_runs_slots_have_crews(tmp_path: Path) -> None:
    crew = CrewSpec(peers=3)
    signed = make_crew_run(tmp_path / "run", crew, experts=2)
    assert load_run(tmp_path / "run").id == signed.id
    assert (signed.record.crew, signed.record.slots) == (crew, ("expert-0", "expert-1", "router"))
