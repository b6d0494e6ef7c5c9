"""How far weights are trained, as their own counters say."""

import pytest
import torch
from safetensors.torch import save_file

from paris_p2p.errors import CheckpointError
from paris_p2p.generation.trained import Trained, trained_slots, warn_barely
from paris_p2p.model.checkpoint import Counters, counters_of
from tests.made.tiny_run import TRAIN_CLIPS, TRAINING, TinyRun


def weights_at(path, slot: str, steps: int, clips: int):
    save_file({"a": torch.zeros(1)}, path, Counters("12" * 32, slot, steps, clips).metadata("weights"))
    return path


def test_weights_that_still_are_their_start_are_barely_trained(tiny: TinyRun, tmp_path):
    # An EMA of 0.999 keeps 0.999^n of its start: under 5 % from 2,995 steps after the warm-up on.
    enough = 2995 + TRAINING.warmup_steps
    few = trained_slots(
        tiny.spec, {"expert-0": weights_at(tmp_path / "few", "expert-0", enough - 1, 100_000)}
    )
    many = trained_slots(tiny.spec, {"expert-0": weights_at(tmp_path / "many", "expert-0", enough, 100_000)})
    assert few["expert-0"].barely
    assert not many["expert-0"].barely
    assert many["expert-0"].passes == 100_000 / TRAIN_CLIPS
    assert "expert-0" in warn_barely(few)
    assert warn_barely(many) == ""


def test_weights_that_have_not_seen_every_clip_once_are_barely_trained(tiny: TinyRun, tmp_path):
    # two clusters' clips
    router = {"router": weights_at(tmp_path / "router", "router", 10_000, 2 * TRAIN_CLIPS - 1)}
    assert trained_slots(tiny.spec, router)["router"].barely


def test_passes_are_told_without_an_exponent() -> None:
    told = [
        Trained("router", 1, 1, passes, 0.0).describe()
        for passes in (3636.4, 170.4, 12.345, 0.0523, 0.0001, 0)
    ]
    ends = [
        "(3,636 passes)",
        "(170 passes)",
        "(12.3 passes)",
        "(0.0523 passes)",
        "(less than 0.01 passes)",
        "(0 passes)",
    ]
    assert [words[words.index("(") :] for words in told] == ends


@pytest.mark.parametrize(
    "change", [{"steps": "many"}, {"steps": "-1"}, {"clips": str(1 << 60)}, {"paris": "paris-resume/1"}]
)
def test_counters_that_cannot_be_are_refused_by_name(change, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"a": torch.zeros(1)}, path, Counters("12" * 32, "router", 1, 1).metadata("weights") | change)
    with pytest.raises(CheckpointError, match=r"weights\.safetensors"):
        counters_of(path)
