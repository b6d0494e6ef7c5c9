"""Makes the demo's data: clips recorded from the game, a run of them by the project's commands, prompts."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np

from examples.demo.clips import SCENARIOS, write_clips
from examples.demo.processes import run_command
from examples.demo.sizes import EXPERTS, Plan, Size
from examples.gameplay import FPS
from paris_p2p.data.prepared import Prepared, SplitClip, split_clips

FRAMES, CLIPS_PER_PROMPT = 8, 2
CLAIM_S = 30
# in the time that training is expected to take; each is fetched, checked and signed by another
CHECKPOINTS = 6
LEAST_CHECKPOINT_S, MOST_CHECKPOINT_S = 10, 90
RECIPE = {
    "learning-rate": "2e-3",
    "warmup-steps": "50",
    "ema-decay": "0.99",
    "gate-clips": "32",
    "gate-tolerance": "0.1",
    "claim-s": str(CLAIM_S),
    "settle-s": "2",
    "margin-s": "3",
}
PURPOSE = (
    "--purpose",
    "to show a swarm at work",
    "--data-licence",
    "MIT (VizDoom)",
    "--weights-licence",
    "Apache-2.0",
)


def record(out: Path, size: Size, rng_seed: int) -> int:
    """Writes the size's clips as video files with captions; returns how many."""
    return write_clips(out / "clips", size.clips, rng_seed)


def prepare(out: Path, size: Size) -> Prepared:
    """Calls `paris-run prepare` on the recorded clips, into `out`/run."""
    side = str(size.side_pixels)
    run_command(
        "paris-run",
        *("prepare", str(out / "clips"), "--out", str(out / "run"), "--experts", str(EXPERTS)),
        *("--frames", str(FRAMES), "--height", side, "--width", side, "--fps", str(FPS)),
        log=out / "logs" / "owner-commands.log",
    )
    return Prepared.load(out / "run")


def create(out: Path, plan: Plan) -> None:
    """Calls `paris-run create`: slots end at the size's last step.

    Over the last half the rate falls to zero.
    """
    size, interval_s = plan.size, plan.train_s / CHECKPOINTS
    recipe = RECIPE | {
        "checkpoint-s": f"{min(max(interval_s, LEAST_CHECKPOINT_S), MOST_CHECKPOINT_S):.0f}",
        "expert": size.expert,
        "router": size.router,
        "batch": str(size.batch_clips),
        "router-batch": str(size.router_batch_clips),
        "total-steps": str(size.steps),
        "decay-steps": str(size.steps // 2),
    }
    options = (f"--{name}={value}" for name, value in recipe.items())
    run_command(
        "paris-run",
        "create",
        str(out / "run"),
        "--name",
        "demo",
        *PURPOSE,
        *options,
        log=out / "logs" / "owner-commands.log",
    )


def real_clips(
    folder: Path, prepared: Prepared, split: str, per_scenario: int
) -> tuple[np.ndarray, list[str]]:
    """Returns pixels of real clips, uint8 [N, T, H, W, 3], with their scenarios."""
    taken: dict[str, list[SplitClip]] = {name: [] for name in SCENARIOS}
    for clip in split_clips(folder, split):  # type: ignore[arg-type]
        kind = taken[scenario_of(clip.source)]
        if len(kind) < per_scenario:
            kind.append(clip)
    clips = [(clip.pixels(prepared.clip), name) for name, kind in taken.items() for clip in kind]
    return np.stack([np.asarray(pixels) for pixels, _ in clips]), [name for _, name in clips]


def scenario_of(source: str) -> str:
    return Path(source).name.partition("-")[0]


def choose_prompts(folder: Path, judged_clips: int, rng_seed: int) -> tuple[list[str], list[str]]:
    """Returns (captions, scenarios) of the test split that no train clip has, as many of each scenario.

    Each stands there twice, to see whether a prompt gives one clip only.
    """
    by_scenario: dict[str, list[str]] = {name: [] for name in SCENARIOS}
    for line in (folder / "captions" / "test.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if not entry["seen_in_train"]:
            by_scenario[scenario_of(entry["source"])].append(entry["caption"])
    rng = random.Random(rng_seed)
    each = judged_clips // len(by_scenario) // CLIPS_PER_PROMPT
    some = [
        (caption, name) for name, captions in by_scenario.items() for caption in _some(captions, each, rng)
    ]
    chosen = [pair for pair in some for _ in range(CLIPS_PER_PROMPT)]
    return [caption for caption, _ in chosen], [name for _, name in chosen]


def _some(captions: list[str], count: int, rng: random.Random) -> list[str]:
    if not captions:
        raise SystemExit("no test caption is unseen in training; record more clips with --clips")
    rng.shuffle(captions)
    return [captions[number % len(captions)] for number in range(count)]
