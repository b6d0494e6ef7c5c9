"""Generating from local files."""

import json

import av
import numpy as np
import pytest
import torch

from paris_p2p.device import Device
from paris_p2p.errors import CheckpointError, SlotMissingError, UsageError
from paris_p2p.flow.mixture import ROUTINGS
from paris_p2p.generation import run_engine as room
from paris_p2p.generation.generate import generate, steps_in_words
from paris_p2p.generation.routed import ExpertSeats, expert_state
from tests.made.made_run import EXPERTS, PROMPTS, MadeRun


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeRun:
    return MadeRun(tmp_path_factory.mktemp("made"))


def frames(made: MadeRun, folder, **changes) -> np.ndarray:
    out = folder / "clips.npy"
    generate(made.fetched(), made.job(out, **changes))
    return np.load(out, allow_pickle=False)


def close(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal but for a rounding here and there: another batch size is another order of sums."""
    return bool((np.abs(a.astype(int) - b.astype(int)) <= 2).mean() > 0.99)


def test_a_prompt_that_is_cut_and_frames_that_a_gif_leaves_out_are_told(made, tmp_path):
    long = "a red ball rolls a red ball rolls"
    result = generate(made.fetched(), made.job(tmp_path / "clip.GIF", prompts=(long,), steps=1))
    assert result.notes == (f"{long!r} has 8 text tokens, 6 are read: the end of it counts for nothing",)
    assert f"note: {result.notes[0]}" in result.describe()
    assert (
        generate(made.fetched(), made.job(tmp_path / "clip.npy", prompts=("a red ball",), steps=1)).notes
        == ()
    )


def test_clips_have_the_runs_shape_and_the_result_says_what_made_them(made, tmp_path):
    seen: list[tuple[str, int, int]] = []
    result = generate(
        made.fetched(),
        made.job(tmp_path / "clips.npy", clips_per_prompt=2),
        lambda *event: seen.append(event),
    )
    assert np.load(result.paths[0]).shape == (4, 3, 16, 24, 3)
    assert result.prompts == (PROMPTS[0], PROMPTS[0], PROMPTS[1], PROMPTS[1])
    assert result.chosen.shape == (4, 3, EXPERTS)
    torch.testing.assert_close(result.chosen.sum(2), torch.ones(4, 3))
    assert seen[-1] == ("denoising steps", 12, 12)
    text = result.describe()
    assert "clips.npy" in text
    assert made.cards["router"][:16] in text
    assert "1-" in text or "1: " in text


def test_the_seed_decides_and_nothing_else(made, tmp_path):
    first = frames(made, tmp_path, rng_seed=5)
    assert np.array_equal(first, frames(made, tmp_path, rng_seed=5))
    assert not close(first, frames(made, tmp_path, rng_seed=6))


def test_neither_the_batch_size_nor_more_clips_change_a_clip(made, tmp_path):
    many = frames(made, tmp_path, clips_per_prompt=3, batch_clips=4)
    assert close(many, frames(made, tmp_path, clips_per_prompt=3, batch_clips=1))
    assert close(many[[0, 3]], frames(made, tmp_path))


@pytest.mark.parametrize("routing", sorted(set(ROUTINGS) - {"oracle"}))
@pytest.mark.parametrize("form", ["per_expert", "exact"])
def test_every_routing_and_guidance_form_generates(made, tmp_path, routing, form):
    assert frames(made, tmp_path, routing=routing, guidance_form=form, top_k=2, prompts=PROMPTS[:1]).any()


def test_heun_generates_and_reports_one_choice_a_step(made, tmp_path):
    assert generate(
        made.fetched(), made.job(tmp_path / "clips.npy", scheduler="heun", steps=4)
    ).chosen.shape == (2, 4, EXPERTS)


def test_a_missing_slot_is_refused_by_name_and_partial_generation_routes_among_the_others(made, tmp_path):
    weights = {slot: path for slot, path in made.weights.items() if slot != "expert-1"}
    with pytest.raises(SlotMissingError, match="expert-1"):
        generate(made.fetched(weights=weights), made.job(tmp_path / "clips.mp4"))
    assert list(tmp_path.iterdir()) == []
    result = generate(
        made.fetched(weights=weights),
        made.job(tmp_path / "clip.mp4", allow_partial=True, prompts=PROMPTS[:1], routing="full"),
    )
    assert not result.chosen[..., 1].any()
    assert "expert-1 missing" in result.describe()
    with av.open(str(result.paths[0])) as container:
        comment = json.loads(container.metadata["comment"])
    assert comment["partial"] is True
    assert comment["missing"] == ["expert-1"]
    assert comment["prompt"] == PROMPTS[0]
    assert comment["cards"] == made.cards


def test_without_a_router_or_without_experts(made, tmp_path):
    weights = {slot: path for slot, path in made.weights.items() if slot != "router"}
    for routing in ("top_k", "full", "threshold"):
        with pytest.raises(
            UsageError,
            match=r"which of 3 experts to use, and the router has no weights here; .*--routing uniform",
        ):
            generate(
                made.fetched(weights=weights),
                made.job(tmp_path / "a.npy", allow_partial=True, routing=routing),
            )
    assert list(tmp_path.iterdir()) == []
    result = generate(
        made.fetched(weights=weights), made.job(tmp_path / "a.npy", allow_partial=True, routing="uniform")
    )
    assert result.missing == ("router",)
    assert result.chosen.unique().tolist() == [pytest.approx(1 / 3)]
    alone = {"expert-1": made.weights["expert-1"]}
    assert generate(made.fetched(weights=alone), made.job(tmp_path / "b.npy", allow_partial=True)).chosen[
        ..., 1
    ].unique().tolist() == [1]
    with pytest.raises(SlotMissingError, match="no expert"):
        generate(
            made.fetched(weights={"router": made.weights["router"]}),
            made.job(tmp_path / "a.npy", allow_partial=True),
        )


def test_weights_of_another_slot_are_refused(made, tmp_path):
    with pytest.raises(CheckpointError):
        generate(
            made.fetched(weights=made.weights | {"router": made.weights["expert-0"]}),
            made.job(tmp_path / "a.npy"),
        )


@pytest.mark.parametrize("changes", [{"routing": "best"}, {"guidance_form": "strong"}])
def test_an_unknown_choice_names_the_known_ones(made, tmp_path, changes):
    with pytest.raises(UsageError, match="choose one of"):
        generate(made.fetched(), made.job(tmp_path / "a.npy", **changes))


def test_with_few_seats_experts_take_turns_and_the_clips_are_the_same(made, tmp_path, monkeypatch):
    expected = frames(made, tmp_path, routing="full")
    fetched: list[int] = []
    original = room.expert_state
    monkeypatch.setattr(room, "seats_for", lambda config, device: 1)
    monkeypatch.setattr(
        room, "expert_state", lambda config, path, device: fetched.append(1) or original(config, path, device)
    )
    assert close(frames(made, tmp_path, routing="full"), expected)
    assert len(fetched) == 3 * EXPERTS  # one seat: every expert comes in at every step


def test_steps_are_told_as_runs():
    weights = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 0.3, 0.7], [0, 0, 1]])
    assert steps_in_words(weights) == "1-2: expert-0, 3: expert-2 0.70 + expert-1 0.30, 4: expert-2"


@pytest.mark.parametrize(("multiplies", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_experts_are_kept_in_what_the_device_multiplies(made: MadeRun, multiplies, dtype):
    device, config = Device(torch.device("cpu"), multiplies), made.spec.expert.config
    state = expert_state(config, made.weights["expert-0"], device)
    assert {tensor.dtype for tensor in state.values()} == {dtype}
    wide = {name: tensor.float() for name, tensor in state.items()}  # as an exported model's are
    seated = ExpertSeats(config, lambda k: wide, device, 1)._seat(0)
    assert all(torch.equal(seated.get_parameter(name), tensor) for name, tensor in state.items())
