"""Makes the studio's private run: clips of a game, prepared and created by the project's own commands."""

from __future__ import annotations

from pathlib import Path

from examples.demo.clips import write_clips
from examples.demo.processes import run_command

CLIPS, EXPERTS, FRAMES, SIDE_PIXELS = 96, 2, 8, 32
CHECKPOINT_S, CLAIM_S = 12, 20
NAME = "Foxes over Kreuzberg"  # words that no program has in it
PURPOSE = "the studio's own hand-drawn style, shown to nobody"


def make_run(root: Path) -> Path:
    """Records clips and makes a private run of them; returns the run's folder."""
    folder, log = root / "run", root / "logs" / "owner-commands.log"
    write_clips(root / "clips", CLIPS, rng_seed=11)
    side = str(SIDE_PIXELS)
    run_command(
        "paris-run",
        *("prepare", str(root / "clips"), "--out", str(folder), "--experts", str(EXPERTS)),
        *("--frames", str(FRAMES), "--height", side, "--width", side, "--fps", "16"),
        log=log,
    )
    run_command(
        "paris-run",
        *("create", str(folder), "--private", "--name", NAME, "--purpose", PURPOSE),
        *("--expert", "nano", "--router", "nano", "--batch", "8", "--router-batch", "16"),
        *("--learning-rate", "2e-3", "--warmup-steps", "20", "--ema-decay", "0.98"),
        *("--gate-clips", "8", "--gate-tolerance", "0.5", "--checkpoint-s", str(CHECKPOINT_S)),
        *("--claim-s", str(CLAIM_S), "--settle-s", "2", "--margin-s", "2"),
        log=log,
    )
    return folder
