"""Tests that the gate attests good checkpoints and refuses bad ones with a reason, never with a crash."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from paris_p2p.errors import DataError
from paris_p2p.training.gate import check_card
from paris_p2p.training.gate_losses import gate_batch
from paris_p2p.training.messages import CheckpointReady, GateJob, GateResult
from tests.made.made_crew import peer_of
from tests.made.tiny_run import TinyRun, checkpoint_of, start_process, train_here

Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def ready(tiny: TinyRun) -> CheckpointReady:
    return _train(tiny, "expert-1", "gate-good", 60)


def _train(tiny: TinyRun, slot: str, out: str, steps: int, **changes: object) -> CheckpointReady:
    return checkpoint_of(train_here(tiny.train_job(slot, out=out, max_steps=steps, **changes)))


def _changed(path: Path, target: Path, change: Callable[[Tensors, dict[str, str]], None]) -> Path:
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
    tensors = load_file(path)
    change(tensors, metadata)
    save_file(tensors, target, metadata)
    return target


@pytest.mark.parametrize("slot", ["expert-1", "router"])
def test_training_lowers_the_gates_loss_below_a_network_that_knows_nothing(tiny: TinyRun, slot: str) -> None:
    early = _train(tiny, slot, f"early-{slot}", 30)
    late = _train(tiny, slot, f"late-{slot}", 90, **tiny.resume(early))
    first = check_card(tiny.gate_job(early, slot))
    assert first.ok, first.reason
    assert first.loss < first.reference_loss
    second = check_card(tiny.gate_job(late, slot, best_weights_path=early.weights_path))
    assert second.ok, second.reason
    # the same card id: the same clips and noise
    assert second.loss < second.reference_loss == pytest.approx(first.loss, rel=1e-6)


def test_the_fixed_loss_is_the_same_for_every_card_of_the_same_weights_and_the_gates_own_is_not(
    tiny: TinyRun, ready: CheckpointReady
) -> None:
    one, other = (check_card(tiny.gate_job(ready, card=card * 32)) for card in ("12", "34"))
    assert one.fixed_loss == other.fixed_loss is not None
    assert one.loss != other.loss
    better = check_card(tiny.gate_job(_train(tiny, "expert-1", "gate-better", 120, **tiny.resume(ready))))
    assert better.fixed_loss is not None
    assert better.fixed_loss < one.fixed_loss  # type: ignore[operator]


def test_verdicts_come_over_the_pipe_one_job_after_another(tiny: TinyRun, ready: CheckpointReady) -> None:
    other = tiny.gate_job(ready, card="34" * 32)
    with start_process(
        "paris_p2p.training.gate", line=tiny.gate_job(ready).to_line() + other.to_line()
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        result, second = (GateResult.model_validate_json(process.stdout.readline()) for _ in range(2))
        process.stdin.close()
    assert result == check_card(tiny.gate_job(ready))
    assert second == check_card(other) != result
    assert result.ok
    assert result.gate_clips == 12


def test_what_is_wrong_here_ends_without_a_verdict(
    tiny: TinyRun, ready: CheckpointReady, tmp_path: Path
) -> None:
    job = tiny.gate_job(ready).model_copy(update={"shard_paths": (tmp_path / "gone.tar",)})
    with pytest.raises(DataError, match=r"gone\.tar"):
        check_card(job)
    with start_process("paris_p2p.training.gate", line=job.to_line()) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read() == b""
        assert b"gone.tar" in process.stderr.read()
        assert process.wait() == 1


def test_every_card_has_clips_noise_and_times_of_its_own(tiny: TinyRun, ready: CheckpointReady) -> None:
    job = tiny.gate_job(ready)
    batch, t = gate_batch(job, tiny.spec)
    again, same_t = gate_batch(job, tiny.spec)
    other, _ = gate_batch(tiny.gate_job(ready, card="34" * 32), tiny.spec)
    assert torch.equal(batch.noise, again.noise)
    assert torch.equal(t, same_t)
    assert not torch.equal(batch.noise, other.noise)
    assert bool((t.diff() > 0).all())  # stratified: one in each slice
    assert 0 < float(t[0]) < 0.3 < 0.7 < float(t[-1]) < 1


def _nan(tensors: Tensors, metadata: dict[str, str]) -> None:
    next(iter(tensors.values())).view(-1)[0] = float("nan")


def _rename(tensors: Tensors, metadata: dict[str, str]) -> None:
    tensors["other"] = tensors.pop(next(iter(tensors)))


def _reshape(tensors: Tensors, metadata: dict[str, str]) -> None:
    name = max(tensors, key=lambda key: tensors[key].numel())
    tensors[name] = tensors[name].flatten()


def _retype(tensors: Tensors, metadata: dict[str, str]) -> None:
    name = next(iter(tensors))
    tensors[name] = tensors[name].half()


def _recount(tensors: Tensors, metadata: dict[str, str]) -> None:
    metadata["clips"] = "999"


def _shift(tensors: Tensors, metadata: dict[str, str]) -> None:
    name = next(name for name in tensors if not name.startswith(("weights.", "exp_avg")))
    tensors[name] = tensors[name] + 0.5


def _negative(tensors: Tensors, metadata: dict[str, str]) -> None:
    name = next((name for name in tensors if name.startswith("exp_avg_sq.")), next(iter(tensors)))
    tensors[name] = tensors[name] - 1.0


@pytest.mark.parametrize("which", ["weights", "resume"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_nan, "is not finite"),
        (_rename, "they differ in"),
        (_reshape, "the network needs"),
        (_retype, "the network needs"),
        (_recount, "clips = '999'"),
        (_shift, "do not belong together"),
        (_negative, "cannot come from any gradients|do not belong together"),
    ],
)
def test_a_malformed_checkpoint_is_refused(
    tiny: TinyRun,
    ready: CheckpointReady,
    tmp_path: Path,
    which: str,
    change: Callable[[Tensors, dict[str, str]], None],
    words: str,
) -> None:
    field = f"{which}_path"
    bad = _changed(getattr(ready, field), tmp_path / "bad.safetensors", change)
    result = check_card(tiny.gate_job(ready).model_copy(update={field: bad}))
    assert not result.ok
    assert re.search(words, result.reason), result.reason


@pytest.mark.parametrize(
    ("notes", "words"),
    [
        ({"counted": f"{'1' * 52}:1"}, "counts peers' clips in no readable way"),
        ({"counted": f"{peer_of(0)}:{2**53}"}, "counts peers' clips in no readable way"),
        ({"more": "x" * (1 << 21)}, "bytes of metadata"),
    ],
    ids=["no peer", "more than a record counts", "long"],
)
def test_notes_that_a_crew_could_not_go_on_from_are_refused(
    tiny: TinyRun, ready: CheckpointReady, tmp_path: Path, notes: dict[str, str], words: str
) -> None:
    bad = _changed(
        ready.resume_path, tmp_path / "bad.safetensors", lambda _, metadata: metadata.update(notes)
    )
    result = check_card(tiny.gate_job(ready).model_copy(update={"resume_path": bad}))
    assert (result.ok, result.code) == (False, "malformed")
    assert re.search(words, result.reason), result.reason


@pytest.mark.parametrize(
    ("part", "value", "words"),
    [
        ("exp_avg", 1e20, "cannot come from any gradients"),  # the next step would blow the weights up
        ("exp_avg_sq", 1e20, "gradients of norm 1 give less"),  # the next thousand steps would do nothing
        # the average is good, what training goes on with is not
        ("weights", 1e8, "the weights that training goes on with"),
    ],
)
def test_a_resume_state_that_would_spoil_the_successors_training_is_refused(
    tiny: TinyRun, ready: CheckpointReady, tmp_path: Path, part: str, value: float, words: str
) -> None:
    def change(tensors: Tensors, metadata: dict[str, str]) -> None:
        names = [name for name in tensors if name.startswith(f"{part}.")]
        for name in names if part == "weights" else names[:1]:
            tensors[name].view(-1)[0] = value

    bad = _changed(ready.resume_path, tmp_path / "bad.safetensors", change)
    result = check_card(tiny.gate_job(ready).model_copy(update={"resume_path": bad}))
    assert not result.ok
    assert words in result.reason


@pytest.mark.parametrize(
    "header", [b"\xff" * 8, (1 << 40).to_bytes(8, "little"), (8).to_bytes(8, "little") + b"[[[[[[[["]
)
def test_a_file_that_is_no_safetensors_is_refused(
    tiny: TinyRun, ready: CheckpointReady, tmp_path: Path, header: bytes
) -> None:
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(header + b"\0" * 100)
    result = check_card(tiny.gate_job(ready).model_copy(update={"weights_path": bad}))
    assert not result.ok
    assert "not a readable safetensors file" in result.reason


def test_counters_that_no_training_reaches_are_refused(tiny: TinyRun, ready: CheckpointReady) -> None:
    for counts in ({"clips": ready.clips + 1}, {"clips": 0, "steps": 0}):
        result = check_card(tiny.gate_job(ready, **counts))
        assert not result.ok
        assert "steps take" in result.reason


def test_a_checkpoint_worse_than_the_best_is_refused(tiny: TinyRun, ready: CheckpointReady) -> None:
    early = _train(tiny, "expert-1", "gate-early", 1)
    result = check_card(tiny.gate_job(early, best_weights_path=ready.weights_path))
    assert not result.ok
    assert result.loss > result.reference_loss > 0
    assert result.reason


def test_a_first_checkpoint_worse_than_knowing_nothing_is_refused(
    tiny: TinyRun, ready: CheckpointReady, tmp_path: Path
) -> None:
    def spoil(tensors: Tensors, metadata: dict[str, str]) -> None:
        for name in tensors:
            if name.startswith("ema.") or "." not in name or not name.startswith(("weights.", "exp_avg")):
                tensors[name] = tensors[name] * 4

    weights = _changed(ready.weights_path, tmp_path / "weights.safetensors", spoil)
    resume = _changed(ready.resume_path, tmp_path / "resume.safetensors", spoil)
    result = check_card(
        tiny.gate_job(ready).model_copy(update={"weights_path": weights, "resume_path": resume})
    )
    assert not result.ok
    assert result.loss > result.reference_loss


def test_the_result_is_one_line(tiny: TinyRun, ready: CheckpointReady) -> None:
    job: GateJob = tiny.gate_job(ready)
    assert json.loads(check_card(job).to_line())["ok"] is True
