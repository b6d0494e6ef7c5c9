"""The estimate that decides before a claim is held to measured peaks, each in a process of its own."""

from __future__ import annotations

import pytest

from bench.needs import measure, spec_of
from paris_p2p.crew_records import CrewSpec
from paris_p2p.training.needs import CREW_BYTES, parameter_count, trainer_bytes, training_bytes

NEAR = 0.25  # of the measured peak; under a loaded machine a sample may miss the very top


@pytest.mark.parametrize(("preset", "slot"), [("tiny", "expert-0"), ("small", "expert-0")])
def test_the_estimate_is_near_the_measured_peak(preset: str, slot: str) -> None:
    found = measure(preset, slot)
    assert found["estimated"] == pytest.approx(found["measured"], rel=NEAR)


def test_more_parameters_and_more_tokens_need_more() -> None:
    sizes = [
        training_bytes(spec_of(preset), "expert-0", bf16=True)
        for preset in ("nano", "micro", "tiny", "small", "medium", "large")
    ]
    assert sizes == sorted(set(sizes))
    assert training_bytes(spec_of("tiny", 32), "expert-0", bf16=True) > training_bytes(
        spec_of("tiny", 16), "expert-0", bf16=True
    )
    assert training_bytes(spec_of("tiny"), "expert-0", bf16=False) > training_bytes(
        spec_of("tiny"), "expert-0", bf16=True
    )


def test_on_a_gpu_the_state_is_the_cards_and_the_checkpoint_main_memorys() -> None:
    spec = spec_of("small")
    (main, vram), (cpu, none) = (
        trainer_bytes(spec, "expert-0", gpu=True, bf16=True),
        trainer_bytes(spec, "expert-0", gpu=False, bf16=True),
    )
    assert none == 0
    assert vram > training_bytes(spec, "expert-0", bf16=True)
    assert main > cpu  # CUDA's libraries


def test_a_crew_takes_more_main_memory_and_none_of_the_gpu() -> None:
    alone = spec_of("small")
    crew = alone.model_copy(update={"crew": CrewSpec()})
    for gpu in (False, True):
        (main, vram), (more, same) = (
            trainer_bytes(spec, "expert-0", gpu=gpu, bf16=True) for spec in (alone, crew)
        )
        assert more - main == CREW_BYTES * parameter_count(alone, "expert-0")
        assert vram == same
