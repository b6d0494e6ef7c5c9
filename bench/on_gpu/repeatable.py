"""Measures what it costs that sums always have the same order, with and without filling new memory."""

from __future__ import annotations

import time

import torch
import torch.utils.deterministic

from bench.on_gpu.findings import Findings
from bench.on_gpu.setting import Setting
from paris_p2p.data.batches import ClipOrder, Draws, make_batch
from paris_p2p.device import compute_repeatably, pick_device
from paris_p2p.training.learner import Learner
from paris_p2p.training.objective import open_clips

WAYS = {"any order": (False, False), "one order": (True, False), "one order, new memory filled": (True, True)}
ROUNDS, WARM_STEPS = 3, 2


def repeatable(setting: Setting, findings: Findings) -> None:
    """Times optimizer steps of the first timed preset in this process, the ways taking turns."""
    preset, device = setting.sizes.timed_presets[0], pick_device(setting.device)
    if not device.cuda:
        findings.add("what repeatable sums cost", "not tried: a CPU's are repeatable as they are")
        return
    compute_repeatably(device)  # the environment has to be set before the first computation
    made = setting.timed_run(preset)
    clips, draws = open_clips(made.train_job("expert-0", "steps", str(device)), made.spec), Draws.of("", "")
    batch = make_batch(clips, ClipOrder(draws, len(clips)), draws, 0, made.shape.batch_clips)
    learner, batch = Learner(made.run, made.spec, "expert-0", device), batch.to(device.torch)
    best_s = dict.fromkeys(WAYS, float("inf"))
    for _ in range(ROUNDS):
        for way, (ordered, filled) in WAYS.items():
            torch.use_deterministic_algorithms(ordered, warn_only=True)
            torch.utils.deterministic.fill_uninitialized_memory = filled
            for _ in range(WARM_STEPS):
                learner.step(batch)
            started_at, steps = time.monotonic(), 0
            while time.monotonic() - started_at < setting.sizes.measure_s / 4:
                learner.step(batch)  # waits for the GPU: it returns the loss
                steps += 1
            best_s[way] = min(best_s[way], (time.monotonic() - started_at) / steps)
    plain_s = best_s["any order"]
    for way, step_s in best_s.items():
        findings.add(
            f"step of {preset}, eager, sums in {way}",
            f"{step_s * 1e3:.1f} ms, {step_s / plain_s:.2f} of any order's",
            step_s=step_s,
        )
