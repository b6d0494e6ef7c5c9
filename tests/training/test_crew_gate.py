"""Tests that the gate merges a crew's rounds anew: honest cards of each kind pass, others are refused with a
code, and what is wrong on this side is no verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from paris_p2p.crew_records import SCALE_ONE, CrewSpec
from paris_p2p.errors import CheckpointError, InexactError
from paris_p2p.identity import Identity
from paris_p2p.model.checkpoint import Counters
from paris_p2p.model.merged_file import write_merged
from paris_p2p.rules.refusals import REASONS
from paris_p2p.training.basis_state import load_basis
from paris_p2p.training.crew_gate import check_crew_card
from paris_p2p.training.crew_messages import Basis, CrewGateJob, RoundFiles, UpdateFile
from paris_p2p.training.messages import CheckpointReady, GateResult
from paris_p2p.training.round_merge import CrewSlot, merge_round, open_update, scaled
from paris_p2p.updates.chunk_codes import ChunkCodes, PackedChunks
from paris_p2p.updates.compression import Precision, compress
from paris_p2p.updates.layout import Vector, chunk_slices
from paris_p2p.updates.merged_state import read_state, write_state
from paris_p2p.updates.update_header import UpdateHeader, assembled
from tests.made.tiny_run import TinyRun, checkpoint_of, start_process, train_here

SLOT, BATCH = "expert-1", 4
CREW = CrewSpec(peers=8)
PEERS = sorted(Identity.from_private_bytes(bytes([number]) * 32).peer_id for number in range(1, 6))
HONEST = UpdateFile(update="0a" * 32, signer=PEERS[0], path="none", steps=1, clips=4, first_clip=0)


@dataclass
class Made:
    """A slot's checkpoint, and the rounds that honest peers and a lead made after it."""

    tiny: TinyRun
    folder: Path
    solo: CheckpointReady
    toward: Vector  # what training changed afterwards: a direction that helps
    rounds: list[RoundFiles] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.crew_slot = CrewSlot.of(self.tiny.run, SLOT, self.tiny.spec, CREW)
        self.basis = Basis(
            card="aa" * 32,
            weights_path=self.solo.weights_path,
            resume_path=self.solo.resume_path,
            start_steps=self.solo.steps,
            start_clips=self.solo.clips,
        )
        self.state = load_basis(self.crew_slot, self.basis)

    def update(self, peer: str, change: Vector, name: str = "", **header: int) -> UpdateFile:
        """Writes an update of ten steps that changes the weights so."""
        n = self.crew_slot.parameters
        path, out = self.folder / f"{name or len(list(self.folder.iterdir()))}.update", BytesIO()
        base = np.zeros(n, np.float32)
        fine = Precision(0.3, 1.0)
        compress(np.zeros(n, np.float32), base, change, UpdateHeader(n, **header), fine, out)
        path.write_bytes(out.getvalue())
        number = f"{PEERS.index(peer):02x}{len(self.rounds):02x}"
        return UpdateFile(update=number * 16, signer=peer, path=path, steps=10, clips=40, first_clip=0)

    def honest(self, peer: str, share: float = 0.2) -> UpdateFile:
        """A part of what helps, and a little of its own."""
        noise = np.random.default_rng(PEERS.index(peer)).standard_normal(self.toward.size, np.float32)
        spread = np.abs(self.toward).mean()
        return self.update(peer, np.float32(share) * (self.toward + noise * spread))

    def merge(self, files: Sequence[UpdateFile], *, full: bool = False, **changes: Any) -> RoundFiles:
        """Returns the round that a lead makes of these, but for the changes; the state goes on."""
        updates = [open_update(self.crew_slot, file) for file in files]
        files = scaled(files, updates)
        before = self.state.steps, self.state.clips
        merge_round(self.crew_slot, self.state, files, updates, full=full)
        made = RoundFiles(
            steps_before=before[0],
            clips_before=before[1],
            steps=self.state.steps,
            clips=self.state.clips,
            full=full,
            merged=self.crew_slot.hash_of(self.state),
            updates=files,
        ).model_copy(update=changes)
        self.rounds.append(made)
        return made

    def job(self, rounds: Sequence[RoundFiles], **changes: Any) -> CrewGateJob:
        plain = self.tiny.gate_job(self.solo, SLOT).model_dump()
        fields: dict[str, Any] = {
            "crew": CREW,
            "basis": self.basis,
            "rounds": tuple(rounds),
            "merged": rounds[-1].merged if rounds else self.crew_slot.hash_of(self.state),
            "light": True,
            "state_out": self.folder / "state",
            "steps": self.state.steps,
            "clips": self.state.clips,
        }
        return CrewGateJob(**(plain | fields | changes))

    def write_full(self) -> tuple[Path, Path]:
        counters = Counters(self.tiny.run, SLOT, self.state.steps, self.state.clips)
        return write_merged(self.folder, counters, dict(self.crew_slot.layout.shapes), self.state)


@pytest.fixture(scope="module")
def trained(tiny: TinyRun) -> tuple[CheckpointReady, Vector]:
    """A checkpoint, and what sixty more steps changed."""
    torch.set_num_threads(1)
    first = checkpoint_of(train_here(tiny.train_job(SLOT, out="crew-solo", max_steps=60)))
    later = checkpoint_of(
        train_here(tiny.train_job(SLOT, out="crew-later", max_steps=120, **tiny.resume(first)))
    )
    slot = CrewSlot.of(tiny.run, SLOT, tiny.spec, CREW)
    states = [
        load_basis(
            slot,
            Basis(
                card="aa" * 32,
                weights_path=one.weights_path,
                resume_path=one.resume_path,
                start_steps=one.steps,
                start_clips=one.clips,
            ),
        )
        for one in (first, later)
    ]
    return first, states[1].weights - states[0].weights


@pytest.fixture
def made(tiny: TinyRun, trained: tuple[CheckpointReady, Vector], tmp_path: Path) -> Made:
    return Made(tiny, tmp_path, *trained)


def refused(result: GateResult, code: str, words: str = "") -> None:
    assert not result.ok
    assert (result.code, words in result.reason) == (code, True), result.reason


def test_an_honest_light_card_is_measured_against_the_state_before_it(made: Made) -> None:
    before = made.state.average.copy()
    job = made.job([made.merge([made.honest(peer) for peer in PEERS[:3]])])
    result = check_crew_card(job)
    assert result.ok, result.reason
    assert result.loss < result.reference_loss  # they went where training goes
    assert result.fixed_loss is not None
    kept = read_state(job.state_out, job.run, SLOT, made.crew_slot.parameters, job.merged)
    assert np.array_equal(kept.weights, made.state.weights)
    assert not np.array_equal(kept.average, before)


def test_a_round_of_the_lead_alone_and_several_rounds_pass_too(made: Made) -> None:
    rounds = [made.merge([made.honest(PEERS[0])]), made.merge([made.honest(peer) for peer in PEERS])]
    result = check_crew_card(made.job(rounds))
    assert result.ok, result.reason


def test_the_state_that_was_kept_gives_the_same_verdict_as_the_full_cards_files(made: Made) -> None:
    first = made.merge([made.honest(peer) for peer in PEERS[:3]])
    job = made.job([first])
    assert check_crew_card(job).ok
    basis = made.basis.model_copy(update={"card": "bb" * 32, "rounds": (first,)})
    cached = basis.model_copy(update={"state_path": job.state_out, "resume_path": Path("/nowhere")})
    second = made.merge([made.honest(peer) for peer in PEERS[1:]])
    again, quick = (
        check_crew_card(made.job([second], basis=one, state_out=made.folder / "next"))
        for one in (basis, cached)
    )
    assert again == quick
    assert again.ok, again.reason


def test_a_full_cards_files_hold_the_rounded_state(made: Made) -> None:
    last = made.merge([made.honest(peer) for peer in PEERS[:3]], full=True)
    weights, resume = made.write_full()
    job = made.job([last], light=False, weights_path=weights, resume_path=resume)
    result = check_crew_card(job)
    assert result.ok, result.reason
    basis = Basis(
        card="bb" * 32,
        weights_path=weights,
        resume_path=resume,
        start_steps=job.steps,
        start_clips=job.clips,
        merged_start=job.merged,
    )
    back = check_crew_card(made.job([], basis=basis, light=False, state_out=made.folder / "back"))
    assert back.ok, back.reason
    assert back.loss == back.reference_loss  # it goes back to itself


@pytest.mark.parametrize("which", ["weights", "resume"])
@pytest.mark.parametrize("place", [0.2, 0.6, 0.95], ids=str)
def test_a_full_cards_files_that_differ_by_one_bit_are_refused(made: Made, which: str, place: float) -> None:
    last = made.merge([made.honest(peer) for peer in PEERS[:3]], full=True)
    paths = dict(zip(("weights", "resume"), made.write_full(), strict=True))
    data = bytearray(paths[which].read_bytes())
    header = 8 + int.from_bytes(data[:8], "little")
    data[header + int((len(data) - header) * place)] ^= 1
    paths[which].write_bytes(bytes(data))
    job = made.job([last], light=False, weights_path=paths["weights"], resume_path=paths["resume"])
    result = check_crew_card(job)
    assert result.code in ("merge", "malformed"), result
    assert not job.state_out.exists()


def test_a_solo_checkpoint_that_poses_as_a_crews_full_card_is_malformed(made: Made) -> None:
    last = made.merge([made.honest(peer) for peer in PEERS[:3]], full=True)
    refused(check_crew_card(made.job([last], light=False)), "malformed")


def _another_scale(one: RoundFiles) -> RoundFiles:
    first = one.updates[0].model_copy(update={"scale": SCALE_ONE // 2})
    return one.model_copy(update={"updates": (first, *one.updates[1:])})


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (lambda one: one.model_copy(update={"merged": "0a" * 32}), "merge", "gives"),
        (lambda one: one.model_copy(update={"updates": one.updates[1:]}), "round", "scales"),
        (lambda one: one.model_copy(update={"full": True}), "merge", "gives"),
        (_another_scale, "round", "scales"),
    ],
    ids=["hash", "dropped", "rounded", "scale"],
)
def test_a_round_that_comes_out_otherwise_is_refused(
    made: Made, change: Callable[[RoundFiles], RoundFiles], code: str, words: str
) -> None:
    honest = made.merge([made.honest(peer) for peer in PEERS[:4]])
    changed = change(honest)
    job = made.job([changed], merged=changed.merged)
    refused(check_crew_card(job), code, words)
    assert not job.state_out.exists()


def test_a_card_that_says_another_hash_than_its_last_round_is_refused(made: Made) -> None:
    last = made.merge([made.honest(peer) for peer in PEERS[:3]])
    refused(check_crew_card(made.job([last], merged="0a" * 32)), "merge", "its state")


def test_an_update_that_was_changed_after_it_was_merged_is_refused(made: Made) -> None:
    files = [made.honest(peer) for peer in PEERS[:3]]
    last = made.merge(files)
    update = open_update(made.crew_slot, files[1])
    blocks = []
    for first, end in chunk_slices(update.header.parameters):
        codes = update.read(first, end)[1]
        blocks.append(PackedChunks.of(ChunkCodes(codes.steps, -codes.levels)).deflated())
    files[1].path.write_bytes(assembled(update.header, blocks))
    refused(check_crew_card(made.job([last])), "merge", "gives")
    files[1].path.write_bytes(files[1].path.read_bytes()[:-1])
    refused(check_crew_card(made.job([last])), "round", "blocks end at")


def test_an_update_that_is_too_long_must_not_be_merged(made: Made) -> None:
    long = made.update(PEERS[3], made.toward * np.float32(20))
    last = made.merge([*(made.honest(peer) for peer in PEERS[:3]), long])
    refused(check_crew_card(made.job([last])), "round", "length")


def test_a_state_that_is_not_finite_is_refused(made: Made) -> None:
    made.state.weights[0] = np.inf
    write_state(made.folder / "forged", made.tiny.run, SLOT, made.state)
    before = made.crew_slot.hash_of(made.state)
    earlier = RoundFiles(
        steps_before=0, clips_before=0, steps=60, clips=240, full=False, merged=before, updates=(HONEST,)
    )
    basis = made.basis.model_copy(update={"rounds": (earlier,), "state_path": made.folder / "forged"})
    last = made.merge([made.honest(peer) for peer in PEERS[:3]])
    job = made.job([last], basis=basis, best_weights_path=made.solo.weights_path)
    refused(check_crew_card(job), "finite")


def test_a_card_that_went_astray_is_refused_for_its_loss(made: Made) -> None:
    last = made.merge([made.update(peer, made.toward * np.float32(-12)) for peer in PEERS[:3]])
    result = check_crew_card(made.job([last]))
    assert result.code in ("loss", "diverged"), result
    assert result.loss > result.reference_loss > 0


def test_counts_that_do_not_fit_the_batch_are_malformed(made: Made) -> None:
    last = made.merge([made.honest(PEERS[0])])
    refused(check_crew_card(made.job([last], clips=made.state.clips + 1)), "malformed")


def test_what_is_wrong_with_the_state_before_is_no_verdict(made: Made) -> None:
    first, second = (made.merge([made.honest(peer) for peer in PEERS[:3]]) for _ in range(2))
    other = made.basis.model_copy(update={"rounds": (first.model_copy(update={"merged": "0b" * 32}),)})
    with pytest.raises(InexactError):
        check_crew_card(made.job([second], basis=other))
    missing = made.basis.model_copy(update={"rounds": (first,), "state_path": made.folder / "gone"})
    with pytest.raises(CheckpointError, match="cannot be read"):
        check_crew_card(made.job([second], basis=missing))


def test_an_update_that_helps_must_not_be_left_out(made: Made) -> None:
    last = made.merge([made.honest(peer, 0.5) for peer in PEERS[:3]])
    other = made.honest(PEERS[4], 0.5)
    for reason in ("", "format", "norm", "copy", "loss", "data"):
        result = check_crew_card(made.job([last], disputed=((other, reason),)))
        refused(result, "dropped", PEERS[4][-8:])
    assert set(REASONS) >= {"dropped", "merge", "round"}


def test_what_a_lead_rightly_left_out_refuses_nothing(made: Made) -> None:
    files = [made.honest(peer) for peer in PEERS[:3]]
    last = made.merge(files)
    bad = made.honest(PEERS[4])
    worse = made.update(PEERS[4], made.toward * np.float32(-0.5))
    longer = made.update(PEERS[4], made.toward * np.float32(8))
    copied = files[0].model_copy(update={"signer": PEERS[4], "update": "0c" * 32})
    data = bad.path.read_bytes()
    bad.path.write_bytes(data + b"\0")
    disputed = (
        (bad, ""),
        (bad, "format"),
        (worse, "loss"),
        (worse, "data"),
        (longer, "norm"),
        (longer, ""),
        (copied, "copy"),
        (copied, ""),
    )
    result = check_crew_card(made.job([last], disputed=disputed))
    assert result.ok, result.reason


def test_the_best_ancestors_kept_state_is_the_reference_as_its_weights_file_is(made: Made) -> None:
    last = made.merge([made.honest(peer) for peer in PEERS[:3]], full=True)
    weights, resume = made.write_full()
    full = made.job([last], light=False, weights_path=weights, resume_path=resume)
    assert check_crew_card(full).ok
    second = made.merge([made.honest(peer) for peer in PEERS[1:]])
    basis = made.basis.model_copy(update={"rounds": (last,)})
    by_file, by_state = (
        check_crew_card(made.job([second], basis=basis, state_out=made.folder / "next", **best))
        for best in (
            {"best_weights_path": weights},
            {"best_state_path": full.state_out, "best_merged": full.merged},
        )
    )
    assert by_file == by_state


def test_the_gates_process_takes_both_kinds_of_job(made: Made) -> None:
    job = made.job([made.merge([made.honest(peer) for peer in PEERS[:3]])])
    plain = made.tiny.gate_job(made.solo, SLOT)
    with start_process("paris_p2p.training.gate", line=job.to_line() + plain.to_line()) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        crews, solo = (GateResult.model_validate_json(process.stdout.readline()) for _ in range(2))
        process.stdin.close()
    assert crews == check_crew_card(job)
    assert solo.ok
