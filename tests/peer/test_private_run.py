"""A sealed run's life: what is stored and sent is sealed, what trainer and gate read is plain, and goes."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from paris_p2p.envelope import Envelope
from paris_p2p.identity import Identity
from paris_p2p.keyring import GateKey, Keyring, RunKey, save_keyring
from paris_p2p.node.open_copies import OPEN, work_folder
from paris_p2p.records import BlobRef
from paris_p2p.spec import GateSpec, RunSpec, TimingSpec, sign_run
from paris_p2p.store.blobs import BlobStore
from paris_p2p.store.sealed_blobs import add_sealed
from paris_p2p.store.sealing import hint_of, open_blob
from paris_p2p.training.messages import GateJob, GateResult, TrainJob
from tests.peer.world import CountingTrainer, Peer, World, good_gate

A, B = Identity.generate(), Identity.generate()
PLAIN = (b"train 0", b"gate 0", b"weights expert", b"weights router", b"resume expert", b"resume router")


class SealedWorld(World):
    """A world whose run is private, or open with a sealed gate; A is its owner's node, A and B attest."""

    def __init__(
        self, root: Path, *, private: bool = True, attestors: tuple[Identity, ...] = (A, B), **more: Any
    ):
        self.private, self.attestors = private, attestors
        self.ring = Keyring((RunKey.generate(),) if private else (), GateKey.generate())
        super().__init__(root, **more)

    def _make_run(self, experts: int, gate: GateSpec, timing: TimingSpec) -> Envelope[RunSpec]:
        spec, ring = super()._make_run(experts, gate, timing).record, self.ring
        assert ring.gate is not None
        sealed = {"members_only": True, "private": True, "key_hash": ring.current.hash} if ring.keys else {}
        may = {
            "key_hash": ring.gate.hash,
            "attestors": tuple(one.peer_id for one in self.attestors),
            "members_attest": False,
        }
        changes: dict[str, Any] = {
            "owner_node": A.peer_id,
            "gate": spec.gate.model_copy(update=may),
            "gate_shards": tuple(
                shard.model_copy(update={"blob": self._seal(shard.blob, ring.gate)})
                for shard in spec.gate_shards
            ),
        }
        if ring.keys:
            changes["train_shards"] = tuple(
                shard.model_copy(update={"blob": self._seal(shard.blob, ring.current)})
                for shard in spec.train_shards
            )
        return sign_run(self.owner, RunSpec.model_validate(spec.model_copy(update=changes | sealed)))

    def _seal(self, ref: BlobRef, key: RunKey | GateKey) -> BlobRef:
        return add_sealed(self.shards, self.shards.path(ref.id), key)

    async def join(self, name: str, identity: Identity, ring: Keyring | None = None, **how: Any) -> Peer:
        ring = self.ring if ring is None else ring
        save_keyring(self.root / name / "runs" / self.run.id, ring)
        return await self.add(name, identity=identity, **how)


class ReadingTrainer(CountingTrainer):
    """Notes what it was given to read, as it was when it started."""

    read: dict[str, list[bytes]]

    async def start(self, job: BaseModel, *, nice: int = 0) -> None:
        await super().start(job, nice=nice)
        given = TrainJob.model_validate(job.model_dump())
        ReadingTrainer.read["shards"] += [path.read_bytes() for path in given.shard_paths]
        ReadingTrainer.read["resume"] += [given.resume_path.read_bytes()] if given.resume_path else []


class ReadingGate:
    def __init__(self) -> None:
        self.read: list[list[bytes]] = []

    async def __call__(self, job: GateJob) -> GateResult:
        paths = (job.weights_path, job.resume_path, *job.shard_paths)
        self.read.append([path.read_bytes() for path in paths])
        return await good_gate(job)


@pytest.fixture(autouse=True)
def _nothing_read() -> None:
    ReadingTrainer.read = {"shards": [], "resume": []}


def plain_in(folder: Path) -> list[Path]:
    """Returns the files under a folder that hold something plain; files may go meanwhile."""
    found = []
    for path in folder.rglob("*"):
        try:
            data = path.read_bytes() if path.is_file() else b""
        except FileNotFoundError:
            continue
        if any(words in data for words in PLAIN):
            found.append(path)
    return found


async def test_a_private_slot_is_trained_and_attested_and_only_sealed_bytes_are_stored_and_sent(
    tmp_path: Path,
) -> None:
    gate = ReadingGate()
    async with SealedWorld(tmp_path) as world:
        await world.join("owner", A, role="owner", gate=gate)
        peer = await world.join("b", B, slot="expert-0", trainer=ReadingTrainer)
        await world.until(lambda: (tip := peer.node.board.tip("expert-0")) and tip.card.record.seq >= 2)
        tip = peer.node.board.tip("expert-0")
        assert tip is not None
        assert set(ReadingTrainer.read["shards"]) == {b"train 0"}
        assert all(
            weights.startswith(b"weights expert-0 ")
            and resume.startswith(b"resume expert-0 ")
            and gate_clips == b"gate 0"
            for weights, resume, gate_clips in gate.read
        )
        for name in ("owner", "b"):
            store = BlobStore(tmp_path / name / "blobs")
            assert store.ids()
            assert all(hint_of(store.path(blob_id)) is not None for blob_id in store.ids())
            assert plain_in(tmp_path / name / "blobs") == []
        await world.until(lambda: peer.node.host.store.has(tip.card.record.weights.id))
        out = io.BytesIO()
        open_blob(peer.node.host.store.path(tip.card.record.weights.id), world.ring.current, out)
        assert out.getvalue() == f"weights expert-0 {tip.card.record.steps}".encode()
        await peer.volunteer.leave()
        await peer.task
        assert plain_in(tmp_path / "b") == []
    assert plain_in(tmp_path / "owner") == []


async def test_a_trainer_that_dies_goes_on_from_an_opened_copy_and_a_later_lead_from_the_tip(
    tmp_path: Path,
) -> None:
    class Dies(ReadingTrainer):
        """The first one dies after it made a checkpoint that went out."""

        deaths = 0

        def _checkpoint(self, steps: int) -> bytes:
            if steps >= 30 and not Dies.deaths:
                Dies.deaths += 1
                self.killed.set()
            return super()._checkpoint(steps)

    async with SealedWorld(tmp_path) as world:
        await world.join("owner", A, role="owner")
        peer = await world.join("b", B, slot="expert-0", trainer=Dies)
        await world.until(lambda: ReadingTrainer.read["resume"])
        assert ReadingTrainer.read["resume"][0].startswith(b"resume expert-0 ")
        begun_again = len(ReadingTrainer.read["resume"])
        await world.until(lambda: peer.node.board.tip("expert-0"))
        await peer.die()
        await world.restart("b", peer, slot="expert-0", trainer=ReadingTrainer)
        await world.until(lambda: len(ReadingTrainer.read["resume"]) > begun_again)
        copies = work_folder(tmp_path / "b", world.run.id, OPEN)
        await world.until(lambda: not any(b"resume" in path.read_bytes() for path in copies.iterdir()))
        assert [path.read_bytes() for path in copies.iterdir()] == [b"train 0"]  # as long as it trains


async def test_in_an_open_run_attestors_get_the_gates_key_and_a_lead_that_is_none_never_does(
    tmp_path: Path,
) -> None:
    """It trains, is attested, and, refused, cannot measure for itself: the attestors' word decides."""
    gate, stranger = ReadingGate(), Identity.generate()
    worse = False

    async def judge(job: GateJob) -> GateResult:
        result = await gate(job)
        return replace_loss(result, 9.0) if worse else result

    async with SealedWorld(tmp_path, private=False, attestors=(A, B)) as world:
        await world.join("owner", A, role="owner", gate=judge)
        attestor = await world.join("b", B, Keyring(), role="generator", gate=judge)
        lead = await world.join("lead", stranger, Keyring(), slot="expert-0", trainer=ReadingTrainer)
        await world.until(lambda: lead.node.board.tip("expert-0"))
        await world.until(lambda: attestor.node.keys.ring.gate == world.ring.gate)
        worse = True
        await world.until(lambda: any("cannot be measured here" in line for line in lead.said))
        await world.until(lambda: any("goes back there at a lower rate" in line for line in lead.said))
        assert lead.node.keys.ring == Keyring()
        assert {clips for *_, clips in gate.read} == {b"gate 0"}
        assert b"gate 0" not in b"".join(path.read_bytes() for path in plain_in(tmp_path / "lead"))


def replace_loss(result: GateResult, loss: float) -> GateResult:
    return result.model_copy(update={"loss": loss, "reference_loss": 0.1})


async def test_a_card_whose_blobs_are_plain_or_do_not_open_is_refused_for_good(tmp_path: Path) -> None:
    """An old program's, or a member's that would have others keep plain weights."""
    async with SealedWorld(tmp_path) as world:
        owner = await world.join("owner", A, role="owner")
        peer = await world.join("b", B, slot="expert-0")
        peer.node.blobs._spec = lambda: world.run.record.model_copy(update={"private": False})
        await world.until(lambda: owner.node.refused)
        assert any(
            "is not sealed, as everything of a private run must be" in why for why in owner.node.refused
        )
        assert owner.node.board.tip("expert-0") is None


async def test_a_disk_that_spoils_a_sealed_blob_is_healed_by_fetching(tmp_path: Path) -> None:
    async with SealedWorld(tmp_path) as world:
        owner = await world.join("owner", A, role="owner")
        peer = await world.join("b", B, role="generator")
        (shard,) = (each.blob for each in world.run.record.train_shards)
        path = peer.node.host.store.path(shard.id)
        data = path.read_bytes()
        path.unlink()  # it is one file with the owner's
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        await owner.node.announce_holding(world.run.id)
        async with peer.node.readable([shard], world.run.id, "test") as (plain,):
            assert plain.read_bytes() == b"train 0"


async def test_a_store_that_is_full_makes_room_for_a_copy_or_says_what_is_missing(tmp_path: Path) -> None:
    async with SealedWorld(tmp_path) as world:
        peer = await world.join("b", B, role="generator")
        (shard,) = (each.blob for each in world.run.record.train_shards)
        store = peer.node.host.store
        spare = tmp_path / "spare"
        spare.write_bytes(bytes(1 << 20))
        store.max_bytes = store.used_bytes() + (1 << 20)
        ref = store.add_file(spare, move=True)
        async with peer.node.readable([shard], world.run.id, "test") as (plain,):
            assert plain.read_bytes() == b"train 0"
        assert not store.has(ref.id)


async def test_copies_go_when_their_user_is_cancelled(tmp_path: Path) -> None:
    async with SealedWorld(tmp_path) as world:
        peer = await world.join("b", B, role="generator")
        (shard,) = (each.blob for each in world.run.record.train_shards)
        opened = asyncio.Event()

        async def use() -> None:
            async with peer.node.readable([shard], world.run.id, "test"):
                opened.set()
                await asyncio.Event().wait()

        user = asyncio.create_task(use())
        await opened.wait()
        assert plain_in(tmp_path / "b")
        user.cancel()
        await asyncio.gather(user, return_exceptions=True)
        assert plain_in(tmp_path / "b") == []
