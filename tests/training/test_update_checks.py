"""What a lead leaves out of a round: bad files, attacks; and that honest updates are merged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from paris_p2p.records import MAX_LOSS
from paris_p2p.training.basis_state import load_basis
from paris_p2p.training.crew_messages import Basis, MakeUpdate, MergedReady, UpdateFile, UpdateReady
from paris_p2p.training.probing import paired_z
from paris_p2p.training.round_merge import CrewSlot, open_update
from paris_p2p.training.update_checks import (
    COPY_AGREEMENT,
    FORGETTING,
    WORSE_Z,
    Drift,
    Judged,
    OpenedUpdate,
    judge_copies,
    judge_form,
    judge_norms,
    sign_agreement,
)
from paris_p2p.training.update_trials import Trials
from paris_p2p.updates.layout import Vector
from paris_p2p.updates.update_header import assembled
from tests.made.digits_run import digits_run
from tests.made.made_crew import (
    CREW,
    MadeCrew,
    Member,
    basis_of,
    card_id,
    crew_job,
    entries_of,
    made_crew,
    peer_of,
    write_update,
)
from tests.made.tiny_run import TinyRun, checkpoint_of, train_here
from tests.updates.made_updates import blocks_of

SLOT, THIEF = "expert-1", peer_of(9)
Forge = Callable[[Vector, np.random.Generator], Vector]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    return digits_run(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def first(digits: TinyRun) -> Basis:
    return basis_of(
        checkpoint_of(train_here(digits.train_job(SLOT, out="first", max_steps=20))), card_id("1")
    )


@pytest.fixture
def crew(digits: TinyRun, first: Basis) -> Iterator[MadeCrew]:
    """Three members that share one memory of the clips, as one process has it."""
    with made_crew(digits, 3, first) as crew:
        yield crew


def slot_of(tiny: TinyRun) -> CrewSlot:
    return CrewSlot.of(tiny.run, SLOT, tiny.spec, CREW)


def honest(crew: MadeCrew, steps: int = 12) -> list[UpdateFile]:
    for member in crew.members:
        member.train(steps)
    return [crew.update_of(member) for member in crew.members]


def forged(file: UpdateFile, slot: CrewSlot, forge: Forge, seed: int) -> UpdateFile:
    """Returns an update of a peer that trains nothing and makes its update of another's."""
    entries = forge(entries_of(file.path, slot.parameters), np.random.default_rng(seed))
    path = write_update(file.path.with_name(f"forged-{seed}"), entries.astype(np.float32))
    return file.model_copy(update={"update": card_id("forged", seed, path), "signer": THIEF, "path": path})


def noise(entries: Vector, random: np.random.Generator) -> Vector:
    drawn = random.standard_normal(entries.size).astype(np.float32)
    return drawn * np.float32(np.linalg.norm(entries) / np.linalg.norm(drawn))


@pytest.mark.parametrize(
    ("forge", "reason"),
    [
        (lambda q, _: -q, "loss"),
        (lambda q, _: 100 * q, "norm"),
        (lambda q, _: q, "copy"),
        (lambda q, random: np.where(random.random(q.size) < 0.05, -q, q), "copy"),
    ],
    ids=["signs flipped", "times 100", "a copy", "a copy with some signs flipped"],
)
def test_an_attack_is_left_out_with_its_reason_and_honest_updates_are_not(
    digits: TinyRun, crew: MadeCrew, forge: Forge, reason: str
) -> None:
    for number in range(2):
        files = honest(crew)
        bad = forged(files[1], slot_of(digits), forge, number)
        ready = crew.merge([*files, bad])
        assert isinstance(ready, MergedReady)
        assert [(one.signer, one.reason) for one in ready.left_out] == [(THIEF, reason)]
        assert ready.left_out[0].measured
        crew.adopt(ready)


def test_noise_of_the_right_length_is_left_out_once_it_is_known(digits: TinyRun, crew: MadeCrew) -> None:
    reasons = []
    for number in range(6):
        files = honest(crew)
        ready = crew.merge([*files, forged(files[1], slot_of(digits), noise, number)])
        assert isinstance(ready, MergedReady)
        assert {one.signer for one in ready.left_out} <= {THIEF}
        reasons.append([one.reason for one in ready.left_out])
        crew.adopt(ready)
    assert all(each in (["loss"], ["data"]) for each in reasons[4:])


def test_what_is_no_number_never_becomes_an_update(digits: TinyRun, crew: MadeCrew, tmp_path: Path) -> None:
    files = honest(crew, steps=1)
    update = open_update(slot_of(digits), files[1])
    blocks = []
    for block in blocks_of(update):
        assert block is not None
        blocks.append(replace(block, steps=np.full_like(block.steps, np.nan)).deflated())
    path = tmp_path / "nan"
    path.write_bytes(assembled(update.header, blocks))
    bad = files[1].model_copy(update={"path": path, "signer": THIEF, "update": card_id("nan")})
    ready = crew.merge([*files, bad])
    assert isinstance(ready, MergedReady)
    assert [(one.signer, one.reason) for one in ready.left_out] == [(THIEF, "format")]


def test_an_update_learned_from_other_clips_is_left_out_or_does_no_harm(
    digits: TinyRun, first: Basis, crew: MadeCrew
) -> None:
    """Its clips are the other expert's digits, on the same base."""
    other = {"shard_paths": (digits.shards["train"][0],), "shard_clusters": (1,)}
    stranger = Member(crew_job(digits, 9, first, **other)).start()
    stranger.train(12)
    files = honest(crew)
    bad = crew.update_of(stranger)
    without, with_it = crew.merge(files), crew.merge([*files, bad])
    stranger.end()
    assert isinstance(without, MergedReady)
    assert isinstance(with_it, MergedReady)
    if not with_it.left_out:
        losses = [held_out(digits, crew, ready) for ready in (without, with_it)]
        assert losses[1] <= 1.02 * losses[0]


def held_out(digits: TinyRun, crew: MadeCrew, ready: MergedReady) -> float:
    """Returns the mean loss of the average that a round leads to, on the gate's digits."""
    import torch

    from paris_p2p.data.clips import ClipSet
    from paris_p2p.device import Device
    from paris_p2p.training.basis_state import put_into
    from paris_p2p.training.objective import build_network
    from paris_p2p.training.probing import losses_of_clips, probe_batch

    slot, spec = slot_of(digits), digits.spec
    basis = crew.basis.model_copy(update={"rounds": (*crew.basis.rounds, ready.round)})
    network = build_network(digits.run, spec, SLOT).eval()
    put_into(slot, dict(network.named_parameters()), load_basis(slot, basis).average)
    clips = ClipSet([digits.shards["gate"][1]], [1], latent=spec.latent, text=spec.text_shape)
    batch = probe_batch(clips, spec, digits.run, SLOT, "held out", 96)
    return float(losses_of_clips(network, spec, SLOT, *batch, Device(torch.device("cpu"), bf16=False)).mean())


def test_a_crew_of_two_learns_digits_and_leaves_nothing_honest_out(digits: TinyRun, first: Basis) -> None:
    with made_crew(digits, 2, first) as crew:
        losses = []
        for _ in range(6):
            ready = crew.merge(honest(crew))
            assert isinstance(ready, MergedReady)
            assert ready.left_out == ()
            losses.append(held_out(digits, crew, ready))
            crew.adopt(ready)
    assert losses[-1] < 0.8 * losses[0]
    assert all(later < earlier for earlier, later in zip(losses, losses[2:], strict=False))


def test_a_crew_is_compared_with_its_lead_alone(digits: TinyRun, crew: MadeCrew) -> None:
    files = honest(crew)
    assert crew.merge(files).worse_z is None  # type: ignore[union-attr]
    ready = crew.merge(files, compare=True)
    assert isinstance(ready, MergedReady)
    assert ready.worse_z is not None
    assert ready.worse_z < 0  # three learn more than one
    assert crew.merge(files[:1], compare=True).worse_z is None  # type: ignore[union-attr]


def test_a_lead_is_compared_with_a_crowd_also_where_that_outvotes_its_own_update(
    digits: TinyRun, crew: MadeCrew
) -> None:
    crew.lead.train(12)
    own = crew.update_of(crew.lead)
    crowd = [
        forged(own, slot_of(digits), lambda q, random: 1e-3 * noise(q, random), number).model_copy(
            update={"signer": peer_of(20 + number)}
        )
        for number in range(3)
    ]
    ready = crew.merge([own, *crowd], compare=True)
    assert isinstance(ready, MergedReady)
    assert (crew.lead.job.peer, "norm") in [(one.signer, one.reason) for one in ready.left_out]
    assert ready.worse_z is not None
    assert ready.worse_z > 3


def test_what_a_lead_learned_in_a_long_round_is_merged(digits: TinyRun, crew: MadeCrew) -> None:
    crew.lead.train(12)
    own = crew.update_of(crew.lead)
    norm = judge_form(slot_of(digits), [own]).kept[0].length
    assert isinstance(crew.merge([own], usual_norm=norm / 10), MergedReady)
    long = forged(own, slot_of(digits), lambda q, _: 4 * q, 0)
    ready = crew.merge([own, long], usual_norm=norm / 10)
    assert isinstance(ready, MergedReady)
    assert [(one.signer, one.reason) for one in ready.left_out] == [(THIEF, "norm")]


def test_trials_leave_the_leads_own_training_as_it_was(digits: TinyRun, first: Basis) -> None:
    def trained(tries: bool) -> bytes:
        with made_crew(digits, 2, first) as crew:
            files = honest(crew, steps=3)
            if tries:
                crew.merge(files, compare=True)
            crew.lead.train(3)
            ready = crew.lead.ask(MakeUpdate(step=2.0))
            assert isinstance(ready, UpdateReady)
            return ready.path.read_bytes()

    assert trained(True) == trained(False)


def test_the_length_of_few_updates_is_compared_with_those_before(digits: TinyRun, crew: MadeCrew) -> None:
    slot = slot_of(digits)
    opened = judge_form(slot, honest(crew, steps=2)).kept
    lengths = [one.length for one in opened]
    assert judge_norms(opened, 0.0).kept == opened
    assert judge_norms(opened[:2], 0.0).kept == opened[:2]
    assert judge_norms(opened[:2], min(lengths) / 3.5).kept == ()
    long = forged(opened[0].file, slot, lambda q, _: 2.9 * q, 0)
    longer = forged(opened[0].file, slot, lambda q, _: 9 * q, 1)
    # The longer one lifts the median over the long one: without it, that is too long as well.
    tried = [*opened[:1], *judge_form(slot, [long, longer]).kept]
    assert len(tried) == 3
    judged = judge_norms([*tried[:1], *tried[1:]], 0.0)
    assert [one.reason for one in judged.left_out] == ["norm"]


@pytest.mark.parametrize("changes", [{"steps": 0}, {"clips": 7}], ids=["no steps", "other clips"])
def test_an_update_counts_the_clips_of_its_steps(
    digits: TinyRun, crew: MadeCrew, changes: dict[str, int]
) -> None:
    file = honest(crew, steps=1)[1].model_copy(update=changes)
    assert [one.reason for one in judge_form(slot_of(digits), [file]).left_out] == ["rate"]


def test_files_of_another_form_than_the_runs_are_refused(
    digits: TinyRun, crew: MadeCrew, tmp_path: Path
) -> None:
    file = honest(crew, steps=1)[1]
    n = slot_of(digits).parameters
    other = write_update(tmp_path / "other", np.ones(n - 1, np.float32))
    zero = write_update(tmp_path / "zero", np.zeros(n, np.float32))
    cut = tmp_path / "cut"
    cut.write_bytes(file.path.read_bytes()[:-1])
    (tmp_path / "none").touch()
    files = [file.model_copy(update={"path": path}) for path in (other, zero, cut, tmp_path / "none")]
    judged = judge_form(slot_of(digits), files)
    assert [one.reason for one in judged.left_out] == ["format"] * 4
    slot = CrewSlot.of(digits.run, SLOT, digits.spec, CREW.model_copy(update={"parts": 2}))
    assert [one.reason for one in judge_form(slot, [file]).left_out] == ["format"]


@pytest.mark.parametrize("step", [0.5, 2.0, 5.0])
def test_updates_agree_by_chance_not_at_all_and_a_copy_wholly(
    digits: TinyRun, tmp_path: Path, step: float
) -> None:
    slot = slot_of(digits)
    random = np.random.default_rng(0)
    files = []
    for number in range(2):
        entries = random.standard_normal(slot.parameters).astype(np.float32)
        path = write_update(tmp_path / f"{number}", entries, step)
        files.append(UpdateFile(update=card_id(number), signer=peer_of(number), path=path, **COUNTS))
    one, other = (open_update(slot, file) for file in files)
    assert abs(sign_agreement(one, other, digits.run, "ab")) < 0.1
    assert sign_agreement(one, one, digits.run, "ab") == 1
    opened = [OpenedUpdate(file, update) for file, update in zip(files, (one, one), strict=True)]
    judged = judge_copies(slot, opened, "ab" * 32)
    assert judged.kept == (opened[0],)  # the one that was heard of first
    assert [(left.signer, left.reason) for left in judged.left_out] == [(peer_of(1), "copy")]


def test_updates_that_all_agree_are_no_copies_and_one_that_agrees_more_is(
    digits: TinyRun, tmp_path: Path
) -> None:
    """All go back after the outer momentum went too far."""
    slot, random = slot_of(digits), np.random.default_rng(0)
    back = random.standard_normal(slot.parameters)
    opened = []
    for number in range(4):
        own = 0.05 * random.standard_normal(slot.parameters)
        path = write_update(tmp_path / f"{number}", (back + own).astype(np.float32))
        file = UpdateFile(update=card_id(number), signer=peer_of(number), path=path, **COUNTS)
        opened.append(OpenedUpdate(file, open_update(slot, file)))
    assert sign_agreement(opened[0].update, opened[1].update, digits.run, "ab" * 32) > COPY_AGREEMENT
    assert judge_copies(slot, opened, "ab" * 32) == Judged(tuple(opened))
    copied = OpenedUpdate(opened[1].file.model_copy(update={"signer": THIEF}), opened[1].update)
    judged = judge_copies(slot, [*opened, copied], "ab" * 32)
    assert [(left.signer, left.reason) for left in judged.left_out] == [(THIEF, "copy")]


COUNTS = {"steps": 1, "clips": 4, "first_clip": 0}


def test_paired_differences_are_weighed_by_their_noise() -> None:
    assert paired_z(np.array([1.0, 1.0, 1.0])) == np.inf
    assert paired_z(np.array([0.0, 0.0])) == 0
    assert paired_z(np.array([5.0])) == 0
    assert paired_z(np.array([1.0, np.nan])) == np.inf
    assert paired_z(np.array([MAX_LOSS, np.inf])) == np.inf
    assert paired_z(np.array([1.0, -1.0, 0.5, -0.5])) == 0
    assert paired_z(np.array([1.0, 3.0])) == pytest.approx(2 / (np.sqrt(2) / np.sqrt(2)))


def test_a_drift_says_nothing_before_four_rounds_and_forgets_old_ones() -> None:
    drift = Drift()
    for _ in range(3):
        drift.add(1.0, 0.01)
    assert drift.z == 0
    drift.add(1.0, 0.01)
    assert drift.z > 10
    for _ in range(60):
        drift.add(-0.5, 0.01)
    assert drift.z < -3  # whatever its maker did long ago
    assert drift.total == pytest.approx(-0.5 / (1 - FORGETTING), rel=0.02)


def test_one_update_that_harms_one_clip_without_bounds_does_not_hide_those_after_it() -> None:
    trials = Trials(None, None, None, 0)  # type: ignore[arg-type]  # it only keeps what was measured
    file = UpdateFile(update=card_id("u"), signer=THIEF, path=Path("u"), steps=1, clips=8, first_clip=0)
    one = OpenedUpdate(file, None)  # type: ignore[arg-type]
    found, rng = np.zeros(64), np.random.default_rng(0)
    found[3] = MAX_LOSS
    trials._note(one, found, 0.0)
    for _ in range(10):
        trials._note(one, 0.02 + 0.02 * rng.standard_normal(64), 0.0)
    assert trials.makers[THIEF].worse.z > WORSE_Z
