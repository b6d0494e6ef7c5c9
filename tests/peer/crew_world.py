"""A trainer and a gate of crews that only count, for the small world: files with a few words in them, and
states that are hashes of what went into them.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from blake3 import blake3
from pydantic import BaseModel

from paris_p2p.crew_records import CrewSpec
from paris_p2p.rules.rounds import update_scales, weight
from paris_p2p.training.counted_note import counted_note, read_counted
from paris_p2p.training.crew_messages import (
    Adopt,
    Adopted,
    Basis,
    CrewGateJob,
    CrewJob,
    GoSolo,
    LeftOut,
    MakeUpdate,
    Merge,
    MergedReady,
    NothingLearned,
    NotMerged,
    RoundFiles,
    UpdateFile,
    UpdateReady,
    parse_crew_command,
)
from paris_p2p.training.messages import (
    CheckpointReady,
    GateJob,
    GateResult,
    Started,
    StepEvent,
    Stopped,
    TrainJob,
)
from tests.peer.world import BATCH_CLIPS, CountingTrainer, line_of

CREW = CrewSpec(peers=8, least_steps=1, most_steps=1000, full_rounds=4)
STEP_S = 0.02


def start_hash(basis: Basis) -> str:
    """The state of a full card: of its files, or what the rounds before it led to."""
    return basis.merged_start or blake3(basis.resume_path.read_bytes()).hexdigest()


def hash_after(before: str, one: RoundFiles) -> str:
    parts = [before, str(one.full), *(f"{each.signer} {each.late} {each.scale}" for each in one.updates)]
    text = "\n".join(parts).encode() + b"".join(each.path.read_bytes() for each in one.updates)
    return blake3(text).hexdigest()


def state_hash(basis: Basis) -> str:
    state = start_hash(basis)
    for one in basis.rounds:
        state = hash_after(state, one)
        assert state == one.merged, "a round's hash is not that of its updates"
    return state


class CountingCrewTrainer(CountingTrainer):
    """Answers a CrewJob as a trainer in a crew would; a plain job as before."""

    step_s = STEP_S
    refuses: Callable[[UpdateFile], str] = staticmethod(lambda _: "")  # a code for a candidate; "" merges it
    worse_z: float | None = None
    jobs: list[TrainJob] = []

    def __init__(self, module: str):
        super().__init__(module)
        self.lines_sent: asyncio.Queue[str] = asyncio.Queue()
        self.last_words: deque[str] = deque()
        self.state = self.before = ""
        self.base = ""
        self.counts: dict[str, int] = {}

    async def start(self, job: BaseModel, *, nice: int = 0) -> None:
        if not isinstance(job, CrewJob):
            await super().start(job, nice=nice)
            self.counts = read_counted(self.job.resume_path) if self.job.resume_path else {}
            return
        self.crew_job = CrewJob.model_validate_json(job.model_dump_json())
        self.job = self.crew_job

    async def send_line(self, line: str) -> None:
        if hasattr(self, "crew_job"):
            self.lines_sent.put_nowait(line)
        else:
            await super().send_line(line)

    async def lines(self) -> AsyncIterator[bytes]:
        if not hasattr(self, "crew_job"):
            async for line in super().lines():
                yield line
            return
        job = self.crew_job
        self._stand_on(job.basis.card, job.basis.steps, state_hash(job.basis))
        self.next_clip, self.mine = job.first_clip, max(0, job.own_resume_steps - job.basis.steps)
        yield line_of(
            Started(
                steps=self.steps,
                clips=self.steps * BATCH_CLIPS,
                parameters=1,
                device="fake",
                precision="none",
                micro_batch_clips=BATCH_CLIPS,
                batch_clips=BATCH_CLIPS,
            )
        )
        async for event in self._events():
            yield line_of(event)

    def _checkpoint(self, steps: int) -> bytes:
        line = super()._checkpoint(steps)
        resume = self.job.out_dir / f"r{steps}"
        words = {"alone": f"{self.job.slot} {steps}{self.maker}"}
        resume.write_bytes(resume_bytes(words | counted_note(self.counts)))
        return line

    def _stand_on(self, card: str, steps: int, state: str) -> None:
        self.base, self.steps, self.state, self.before = card, steps, state, state
        self.before_steps, self.mine = steps, 0

    async def _events(self) -> AsyncIterator[Any]:
        while not self.killed.is_set():
            await asyncio.sleep(self.step_s)
            self.mine += 1
            steps = self.steps + self.mine
            yield StepEvent(
                steps=steps,
                clips=steps * BATCH_CLIPS,
                loss=1.0,
                clips_per_s=BATCH_CLIPS / self.step_s,
                wait_share=0.0,
                memory_bytes=1,
            )
            while not self.lines_sent.empty():
                command = parse_crew_command(self.lines_sent.get_nowait())
                if isinstance(command, MakeUpdate):
                    yield self._update(command)
                elif isinstance(command, Adopt):
                    yield self._adopt(command)
                elif isinstance(command, Merge):
                    yield self._merge(command)
                elif isinstance(command, GoSolo):
                    yield self._solo(command)
                    yield Stopped(reason="it goes on alone")
                    return
                else:
                    yield Stopped(reason="told to")
                    return

    def _update(self, command: MakeUpdate) -> UpdateReady | NothingLearned:
        if self.mine == 0:
            return NothingLearned()
        job, steps = self.crew_job, self.mine
        clips = steps * BATCH_CLIPS
        path = job.out_dir / f"u-{self.next_clip}"
        words = f"{job.peer} {self.base} {self.next_clip} {clips}"
        path.write_text(blake3(words.encode()).hexdigest()[:48])  # no longer than an update may be
        first, self.next_clip = self.next_clip, self.next_clip + clips
        self.mine = 0
        return UpdateReady(
            path=path,
            base=self.base,
            steps=steps,
            clips=clips,
            first_clip=first,
            train_loss=1.0,
            step=command.step,
        )

    def _adopt(self, command: Adopt) -> Adopted:
        if command.basis is not None:
            self._stand_on(command.card, command.basis.steps, state_hash(command.basis))
            return self._adopted()
        assert command.from_card in (self.base, ""), "it adopts from a card that is not its base"
        if command.rounds and command.rounds[-1].merged == self.state:
            self._stand_on(command.card, command.rounds[-1].steps, self.state)
            return self._adopted()
        state, steps = self.before, self.before_steps
        for one in command.rounds:
            state, steps = hash_after(state, one), one.steps
            assert state == one.merged, "a round's hash is not that of its updates"
        self._stand_on(command.card, steps, state)
        return self._adopted()

    def _adopted(self) -> Adopted:
        return Adopted(card=self.base, steps=self.steps, clips=self.steps * BATCH_CLIPS, step_s=self.step_s)

    def _merge(self, command: Merge) -> MergedReady | NotMerged:
        assert command.parent == self.base, "it merges into a card that is not its base"
        good, left = list[UpdateFile](), list[LeftOut]()
        for one in command.candidates:
            code = self.refuses(one)
            if code:
                left.append(LeftOut(update=one.update, signer=one.signer, reason=code))
            elif one.update not in command.without:
                good.append(one)
        if not good:
            return NotMerged(parent=command.parent, left_out=tuple(left))
        good.sort(key=lambda one: one.signer)
        scales = update_scales([1.0 for _ in good])
        updates = tuple(
            one.model_copy(update={"scale": scale}) for one, scale in zip(good, scales, strict=True)
        )
        steps = self.before_steps + sum(one.steps for one in updates)
        made = RoundFiles(
            steps_before=self.before_steps,
            clips_before=self.before_steps * BATCH_CLIPS,
            steps=steps,
            clips=steps * BATCH_CLIPS,
            full=command.full,
            merged="0" * 64,
            updates=updates,
        )
        made = made.model_copy(update={"merged": hash_after(self.before, made)})
        self.state, self.steps = made.merged, made.steps
        files = self._files(made) if command.full else {}
        return MergedReady(
            parent=command.parent,
            round=made,
            left_out=tuple(left),
            train_loss=1.0,
            norm=weight(1, 0),
            worse_z=self.worse_z if command.compare else None,
            **files,
        )

    def _files(self, made: RoundFiles) -> dict[str, Any]:
        out = self.crew_job.out_dir
        weights, resume = out / f"w{made.steps}-{made.merged[:8]}", out / f"r{made.steps}-{made.merged[:8]}"
        weights.write_text(f"weights {made.merged}")
        resume.write_text(f"merged {made.merged}")
        return {"weights_path": weights, "resume_path": resume}

    def _solo(self, command: GoSolo) -> CheckpointReady:
        steps, out = self.steps + self.mine, self.crew_job.out_dir
        weights, resume = out / f"w{steps}-solo", out / f"r{steps}-solo"
        weights.write_text(f"weights solo {steps} {self.state}")
        resume.write_bytes(resume_bytes({"solo": self.state} | counted_note(command.counted)))
        return CheckpointReady(
            weights_path=weights,
            resume_path=resume,
            steps=steps,
            clips=steps * BATCH_CLIPS,
            train_loss=1.0,
        )


def resume_bytes(metadata: dict[str, str]) -> bytes:
    """A safetensors file without tensors."""
    header = json.dumps({"__metadata__": metadata}).encode()
    return len(header).to_bytes(8, "little") + header


async def counting_gate(job: GateJob) -> GateResult:
    """Attests what a crew's card says when its rounds lead to its hash, and every later checkpoint."""
    if isinstance(job, CrewGateJob):
        state = job.basis.merged if job.basis.state_path else state_hash(job.basis)
        for one in job.rounds:
            state = hash_after(state, one)
            if state != one.merged:
                return GateResult(ok=False, reason="the recomputed state differs", code="merge")
        if state != job.merged:
            return GateResult(ok=False, reason="the recomputed state differs", code="merge")
        job.state_out.write_text(state)
    return GateResult(ok=True, loss=1.0 / (1 + job.steps), reference_loss=1.0, gate_clips=4)


def merged_clips(rounds: Sequence[Any]) -> int:
    return sum(one.record.clips for each in rounds for one in each.updates)
