"""A run that its owner extended goes on as if it had never stopped: rates follow the step and the numbers in
force.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from paris_p2p.data.batches import Draws, make_batch
from paris_p2p.data.clip_order import ClipOrder
from paris_p2p.data.clips import ClipSet
from paris_p2p.device import Device
from paris_p2p.model.checkpoint import write_checkpoint
from paris_p2p.owner_records import Extend
from paris_p2p.rules.effective import extended
from paris_p2p.run_file import read_run, write_effective
from paris_p2p.spec import RunSpec
from paris_p2p.training.learner import Learner
from tests.made.tiny_run import TRAINING, TinyRun, checkpoint_of, train_here

BATCH, SLOT = 4, "expert-1"
DECAYS = TRAINING.model_copy(update={"total_steps": 6, "decay_steps": 4})


def in_one_piece(tiny: TinyRun, first: RunSpec, then: RunSpec, change_at: int, until: int) -> bytes:
    """The resume state of one learner that met the change without a stop."""
    draws = Draws.of(tiny.run, SLOT)
    clips = ClipSet([tiny.shards["train"][1]], [1])
    learner = Learner(tiny.run, first, SLOT, Device(torch.device("cpu"), bf16=False))
    order = ClipOrder(draws, len(clips))
    while learner.steps < until:
        if learner.steps == change_at:
            learner.spec = then
        learner.step(make_batch(clips, order, draws, learner.clips, BATCH))
    folder = tiny.folder / "whole"
    folder.mkdir()
    return write_checkpoint(folder, learner.state())[1].read_bytes()


def test_resuming_across_an_extension_equals_not_stopping_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "paris_p2p.training.job_device.pick_device", lambda _: Device(torch.device("cpu"), bf16=False)
    )
    tiny = TinyRun(tmp_path, training=DECAYS)
    signed = read_run(tiny.spec_path, mend="").record
    longer = extended(signed, Extend(total_steps=12, decay_steps=6))
    effective = tmp_path / "effective.json"
    write_effective(effective, longer)
    now: dict[str, Any] = {"effective_path": effective, "notices": 1}
    resume: dict[str, Any] = {}
    for part, (until, known) in enumerate([(3, {}), (5, {}), (7, now), (8, now), (99, now)]):
        job = tiny.train_job(SLOT, out=f"part-{part}", max_steps=until, **known, **resume)
        ready = checkpoint_of(train_here(job))
        resume = tiny.resume(ready)
    assert ready.steps == 12  # the new last step, past the first one
    assert ready.resume_path.read_bytes() == in_one_piece(tiny, signed, longer, 5, 12)
    assert ready.resume_path.read_bytes() != in_one_piece_of(tiny, longer, tmp_path)


def in_one_piece_of(tiny: TinyRun, spec: RunSpec, folder: Path) -> bytes:
    """What it would be, had the run been as long from the start: other rates near the first end."""
    (tiny.folder / "whole").rename(folder / "whole-before")
    return in_one_piece(tiny, spec, spec, 0, 12)
