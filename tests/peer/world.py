"""A small world for tests of a peer's life: a fake network, real stores, and trainers and gates that only
count.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from bench.bare_run import bare_run
from paris_p2p.envelope import Envelope, seal
from paris_p2p.identity import Identity
from paris_p2p.kinds import SIGNED_LIFETIME_S
from paris_p2p.node.host import Host
from paris_p2p.node.run_node import RunNode, opened
from paris_p2p.owner_records import AnyChange, NoticeRecord
from paris_p2p.peer.caretaker import MachineSensors
from paris_p2p.peer.volunteer import Role, Volunteer
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.run_file import read_effective, read_run
from paris_p2p.spec import (
    ClipShape,
    GateSpec,
    LatentShape,
    RunSpec,
    ShardRef,
    TextShape,
    TimingSpec,
    TrainingSpec,
    sign_run,
)
from paris_p2p.store.blobs import BlobStore
from paris_p2p.swarm.fake import FakeNetwork, FakeSwarm
from paris_p2p.training.messages import (
    CheckpointReady,
    GateJob,
    GateResult,
    Started,
    StepEvent,
    Stopped,
    TrainJob,
)
from tests.store.made import add_bytes

TIMING = TimingSpec(claim_s=2.0, settle_s=0.1, margin_s=0.2, checkpoint_s=1.0)
BATCH_CLIPS = 4  # of a step that the trainers count, in every slot
TRAINING = TrainingSpec(batch_clips=BATCH_CLIPS, router_batch_clips=BATCH_CLIPS, learning_rate=1e-3)


class CountingTrainer:
    """A Worker that makes a step every 20 ms, a checkpoint every `checkpoint_steps`, and small files as
    checkpoints.
    """

    checkpoint_steps = 10
    maker = ""  # of whom the files tell, where two makers must not make the same blobs

    def __init__(self, module: str):
        self.module, self.pid, self.returncode = module, 1, 0
        self.last_words: deque[str] = deque()
        self.commands: asyncio.Queue[str] = asyncio.Queue()
        self.killed = asyncio.Event()
        self.job: TrainJob

    async def start(self, job: BaseModel, *, nice: int = 0) -> None:
        self.job = TrainJob.model_validate(job.model_dump())
        spec = read_run(self.job.spec_path, self.job.run, mend="").record
        if self.job.effective_path is not None:
            spec = read_effective(self.job.effective_path, spec)
        self.last_step = spec.training.total_steps

    async def send_line(self, line: str) -> None:
        self.commands.put_nowait(json.loads(line)["command"])

    async def lines(self) -> AsyncIterator[bytes]:
        steps = self.job.resume_steps
        yield line_of(
            Started(
                steps=steps,
                clips=steps * BATCH_CLIPS,
                parameters=1,
                device="fake",
                precision="none",
                micro_batch_clips=BATCH_CLIPS,
            )
        )
        while not self.killed.is_set():
            await asyncio.sleep(0.02)
            steps += 1
            yield line_of(
                StepEvent(
                    steps=steps,
                    clips=steps * BATCH_CLIPS,
                    loss=1.0,
                    clips_per_s=1.0,
                    wait_share=0.0,
                    memory_bytes=1,
                )
            )
            command = None if self.commands.empty() else self.commands.get_nowait()
            if command or steps % self.checkpoint_steps == 0:
                yield self._checkpoint(steps)
            if command == "stop":
                yield line_of(Stopped(reason="told to"))
                return
            if 0 < self.last_step <= steps:
                yield self._checkpoint(steps)
                yield line_of(Stopped(reason="it reached the last step"))
                return

    def _checkpoint(self, steps: int) -> bytes:
        weights, resume = self.job.out_dir / f"w{steps}", self.job.out_dir / f"r{steps}"
        weights.write_text(f"weights {self.job.slot} {steps}{self.maker}")
        resume.write_text(f"resume {self.job.slot} {steps}{self.maker}")
        return line_of(
            CheckpointReady(
                weights_path=weights,
                resume_path=resume,
                steps=steps,
                clips=steps * BATCH_CLIPS,
                train_loss=1.0,
            )
        )

    async def kill(self, *, grace_s: float = 0.0) -> None:
        self.killed.set()


def line_of(event: Any) -> bytes:
    return bytes(event.to_line(), "utf-8")


async def good_gate(job: GateJob) -> GateResult:
    """Every later checkpoint is a little better."""
    return GateResult(ok=True, loss=1.0 / (1 + job.steps), reference_loss=1.0, gate_clips=4)


@dataclass
class Peer:
    """One volunteer in the world."""

    node: RunNode
    volunteer: Volunteer
    swarm: FakeSwarm
    task: asyncio.Task[None]
    said: list[str] = field(default_factory=list)
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def die(self) -> None:
        """As SIGKILL and the plug pulled: nothing is said, nothing is released."""
        self.swarm.offline = True
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


class World:
    """Peers of one run on a fake network; enter it, add peers, wait for things."""

    def __init__(
        self,
        root: Path,
        *,
        experts: int = 1,
        gate: GateSpec | None = None,
        timing: TimingSpec = TIMING,
        initial: bytes = b"",
        **more: Any,
    ):
        self.root, self.network, self.peers = root, FakeNetwork(), list[Peer]()
        self.shards = BlobStore(root / "shards")
        self.initial = {"expert": add_bytes(self.shards, initial)} if initial else {}
        self.owner = Identity.generate()  # signs the run, and its notices (tests/rules/made_notices.py)
        self.notices: list[Envelope[NoticeRecord]] = []  # what the owner said
        self.more = more  # of the RunSpec
        self.run = self._make_run(experts, gate or GateSpec(), timing)

    def _make_run(self, experts: int, gate: GateSpec, timing: TimingSpec) -> Envelope[RunSpec]:
        def shard(split: str, cluster: int) -> ShardRef:
            return ShardRef(
                blob=add_bytes(self.shards, f"{split} {cluster}".encode()), clips=4, cluster=cluster
            )

        latent, text = (
            LatentShape(channels=4, frames=4, height=4, width=4),
            TextShape(tokens=8, dim=8, pooled_dim=8),
        )
        spec = bare_run(
            latent,
            text,
            name="test run",
            purpose="testing",
            data_licence="CC0",
            weights_licence="Apache-2.0",
            created_at=time.time(),
            clip=ClipShape(frames=4, height=16, width=16, fps=8.0),
            experts=experts,
            gate=gate,
            timing=timing,
            train_shards=tuple(shard("train", k) for k in range(experts)),
            gate_shards=tuple(shard("gate", k) for k in range(experts)),
            initial=self.initial,
            **{"training": TRAINING, **self.more},
        )
        return sign_run(self.owner, spec)

    def notice(self, change: AnyChange, number: int = 0) -> Envelope[NoticeRecord]:
        """The owner's next notice, or another of a `number` that there is; nobody hears of it yet."""
        number, now = number or len(self.notices) + 1, time.time()
        record = NoticeRecord(
            run=self.run.id,
            slot="",
            seq=number,
            issued_at=now,
            expires_at=now + SIGNED_LIFETIME_S["notice"],
            previous=self.notices[number - 2].id if number > 1 else self.run.id,
            change=change,
        )
        return seal(self.owner, record)

    async def say(self, change: AnyChange, *, through: Peer | None = None) -> None:
        """The owner speaks: one peer is handed the notice, and tells the others."""
        notice = self.notice(change)
        self.notices.append(notice)
        await self.hand(notice, through or self.peers[0])

    async def hand(self, notice: Envelope[NoticeRecord], peer: Peer) -> None:
        peer.node.keep(notice)
        await peer.node.tell(notice)

    async def add(
        self,
        name: str,
        *,
        role: Role = "peer",
        slot: str = "",
        gate: Any = good_gate,
        trainer: Any = CountingTrainer,
        identity: Identity | None = None,
        sensors: MachineSensors | None = None,
        **allowed: Any,
    ) -> Peer:
        settings = PeerSettings(data_dir=self.root / name, slot=slot, **allowed)
        identity = identity or Identity.generate()
        store = BlobStore(settings.data_dir / "blobs")
        for shard in self.run.record.train_shards + self.run.record.gate_shards:
            store.add_file(self.shards.path(shard.blob.id))
        host = Host(settings=settings, identity=identity, store=store)
        swarm = self.network.join(identity, host)
        host.swarm = swarm
        stack = AsyncExitStack()
        node = await stack.enter_async_context(opened(host, self.run))
        said: list[str] = []
        more = {"make_worker": trainer, "gate": gate, "sensors": sensors}
        volunteer = Volunteer(node, settings, role=role, say=said.append, **more)
        peer = Peer(node, volunteer, swarm, asyncio.create_task(volunteer.run()), said, stack)
        self.peers.append(peer)
        return peer

    async def restart(self, name: str, killed: Peer, **more: Any) -> Peer:
        """The same peer again on what its disk holds."""
        await asyncio.gather(killed.task, return_exceptions=True)
        await killed.stack.aclose()
        self.peers.remove(killed)
        return await self.add(name, identity=killed.node.host.identity, **more)

    async def __aenter__(self) -> World:
        return self

    async def __aexit__(self, *_: object) -> None:
        for peer in self.peers:
            peer.task.cancel()
        await asyncio.gather(*(peer.task for peer in self.peers), return_exceptions=True)
        for peer in self.peers:
            await peer.stack.aclose()

    async def until(self, what: Any, wait_s: float = 240.0) -> None:
        """Wait for a condition (a slow machine takes its time); a task that ended with an error ends the
        wait with it.
        """
        async with asyncio.timeout(wait_s):
            while not what():
                for peer in self.peers:
                    if peer.task.done() and not peer.task.cancelled():
                        peer.task.result()
                await asyncio.sleep(0.02)
