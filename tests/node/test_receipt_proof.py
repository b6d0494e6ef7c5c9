"""A file of receipts is verified without a network, and one that was changed says so."""

from __future__ import annotations

import random
import time
import tracemalloc
import zlib
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from paris_p2p.errors import MissingKeyError, ParisError, RecordError, UsageError
from paris_p2p.history_records import ToldTip
from paris_p2p.keyring import Keyring
from paris_p2p.node.receipt_proof import proof_of, verify_proof
from paris_p2p.node.run_history import RunHistory, known_history
from paris_p2p.owner_records import Pause, Revoke
from paris_p2p.receipt_file import ProvenSlot, ReceiptFile, read_receipts, write_receipts
from paris_p2p.rules.receipts import run_receipts
from paris_p2p.swarm.fake import FakeNetwork
from tests.node.crew_world import CREW, SLOT, attested, crew_card, crew_update, solo_card
from tests.node.members_world import soon
from tests.node.private_world import PrivateWorld
from tests.node.test_history import RUN, grow, node_at, tips_of
from tests.node.test_private_crew import meet, member
from tests.rules.made import A, B, D
from tests.rules.made_notices import chain_of


def clips(found: RunHistory, *, has_crews: bool = False) -> dict[str, int]:
    receipts = run_receipts(found.links, found.merged, has_crews=has_crews)
    return {one.peer: one.clips for one in receipts.of()}


async def proven(folder: Path) -> ReceiptFile:
    async with node_at(folder, FakeNetwork()) as node:
        for notice in chain_of(RUN.id, [Pause()], at_s=time.time() - 60):
            node.keep(notice)
        grow(node, tips_of(4))
        found = known_history(node)
        assert found.source is not None
        return proof_of(found, found.source)


async def test_a_file_proves_what_it_was_made_of(tmp_path: Path) -> None:
    write_receipts(tmp_path / "proof", await proven(tmp_path / "node"))
    found = verify_proof(read_receipts(tmp_path / "proof"), Keyring())
    assert clips(found) == {A.peer_id: 200, B.peer_id: 200}
    assert (found.state.run, found.state.number) == (RUN.id, 1)


async def test_a_file_that_was_changed_proves_nothing(tmp_path: Path) -> None:
    proof = await proven(tmp_path / "node")
    (part, *others) = proof.slots
    first, second, *_ = part.tips
    swapped = first.model_copy(update={"attestations": second.attestations})
    found = verify_proof(
        proof.model_copy(update={"slots": (part.model_copy(update={"tips": (swapped,)}), *others)}), Keyring()
    )
    assert clips(found) == {}
    forged = first.model_copy(update={"card": first.card[:-1] + bytes([first.card[-1] ^ 1])})
    changed = part.model_copy(update={"tips": (forged,)})
    with pytest.raises(RecordError):
        verify_proof(proof.model_copy(update={"slots": (changed,)}), Keyring())
    with pytest.raises(RecordError):
        verify_proof(proof.model_copy(update={"run": proof.run[:-1] + b"x"}), Keyring())
    two = chain_of(RUN.id, [Pause(), Revoke(peer=D.peer_id, since=0.0)], at_s=time.time() - 60)
    with pytest.raises(UsageError, match="notice 1 is missing"):
        verify_proof(proof.model_copy(update={"notices": (two[1].data,)}), Keyring())
    revoked = verify_proof(proof.model_copy(update={"notices": tuple(one.data for one in two)}), Keyring())
    assert clips(revoked) == {}


async def test_what_is_no_file_of_receipts_is_named(tmp_path: Path) -> None:
    file = tmp_path / "proof"
    write_receipts(file, await proven(tmp_path / "node"))
    whole = file.read_bytes()
    for data in (b"", b"paris-receipts/1", whole[:-9], whole + b"more", b"PK" + whole):
        file.write_bytes(data)
        with pytest.raises(ParisError, match=r"no file of|damaged"):
            read_receipts(file)


@pytest.mark.parametrize(
    "plain",
    [b"\x00" * (200 << 20), b"\xdd\x00\x80\x00\x00" + b"\x80" * (1 << 23)],
    ids=["zeros", "eight million empty maps"],
)
def test_a_small_file_makes_nothing_large(tmp_path: Path, plain: bytes) -> None:
    file = tmp_path / "proof"
    file.write_bytes(b"paris-receipts/1" + zlib.compress(plain, 9))
    assert file.stat().st_size < 1 << 20
    del plain
    tracemalloc.start()
    try:
        with pytest.raises(UsageError, match=r"MiB unpacked|more than .* values"):
            read_receipts(file)
        assert tracemalloc.get_traced_memory()[1] < 48 << 20
    finally:
        tracemalloc.stop()


def test_a_file_that_is_cut_off_is_told_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "proof"
    whole = b"paris-receipts/1" + zlib.compress(random.Random(1).randbytes(1 << 20))
    file.write_bytes(whole[:-4] + b"xxxx")  # the checksum
    monkeypatch.setattr("paris_p2p.receipt_file.unpack", None)
    with pytest.raises(UsageError, match="incorrect data check"):
        read_receipts(file)


def test_receipts_whose_words_compress_well_are_read_again(tmp_path: Path) -> None:
    told = ToldTip(card=b"c" * 2000, attestations=(b"a" * 2000,) * 64)
    proof = ReceiptFile(run=b"r" * (5 << 20), slots=(ProvenSlot(slot=SLOT, tips=(told,) * 200),))
    write_receipts(tmp_path / "proof", proof)
    assert read_receipts(tmp_path / "proof") == proof


def test_more_receipts_than_a_reader_takes_are_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paris_p2p.receipt_file._MAX_PLAIN_BYTES", 1 << 20)
    with pytest.raises(UsageError, match="no file of them may have more than 1 MiB"):
        write_receipts(tmp_path / "proof", ReceiptFile(run=b"r" * (2 << 20)))
    assert not (tmp_path / "proof").exists()


async def test_a_private_runs_receipts_are_read_with_its_keys_alone(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        world = PrivateWorld(tmp_path, crew=CREW)
        lead, worker = [await member(world, name, stack) for name in ("lead", "worker")]
        await meet(lead, worker)
        first = await attested(worker, await solo_card(lead))
        await soon(lambda: (tip := lead.board.tip(SLOT)) is not None and tip.card.id == first.id)
        update = await crew_update(worker, first.id)
        light = await attested(worker, await crew_card(lead, [update]))
        await soon(lambda: (tip := lead.board.tip(SLOT)) is not None and tip.card.id == light.id)
        lead.note_crews()
        found = known_history(lead)
        assert found.source is not None
        proof = proof_of(found, found.source)
        ring = lead.keys.ring
    write_receipts(tmp_path / "proof", proof)
    plain = zlib.decompress((tmp_path / "proof").read_bytes()[16:])
    spec = found.state.signed
    for secret in filter(None, (spec.name, spec.purpose, found.state.run, lead.peer_id, worker.peer_id)):
        assert secret.encode() not in plain
    assert bytes.fromhex(found.state.run) not in plain
    with pytest.raises(MissingKeyError, match="name the folder of the run"):
        verify_proof(proof, Keyring())
    assert clips(verify_proof(proof, ring), has_crews=True) == {
        lead.peer_id: first.record.clips,
        worker.peer_id: 8,
    }
