"""Measures what training takes in memory, beside the estimate by which a peer decides before a claim.

    .venv/bin/python -m bench.needs [--presets tiny small] [--slots expert-0 router]

Each row is a process of its own: a learner makes a step of two clips, one at a time with activations computed
twice, and writes a checkpoint. Its peak is the most resident memory beyond what the process had with torch
and our modules loaded.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from bench.bare_run import bare_run, router_of
from bench.row import print_row
from paris_p2p.spec import ROUTER, LatentShape, RunSpec, TextShape, TrainingSpec

LATENT = LatentShape(channels=16, frames=8, height=16, width=16)
TEXT = TextShape(tokens=32, dim=384, pooled_dim=384)
EXPERTS = 4
SAMPLE_S = 0.004
# what the first steps still load (the optimizer torch.compile), measured with `nano`: part of LOADED_BYTES
LOADED_ALREADY = 117_000_000


def spec_of(preset: str, side: int = LATENT.height) -> RunSpec:
    """Returns a run of experts of this preset, and of the router preset of that name where there is one."""
    from paris_p2p.model.presets import ROUTER_PRESETS

    latent = LATENT.model_copy(update={"height": side, "width": side})
    router = router_of(preset if preset in ROUTER_PRESETS else "small", latent, TEXT, EXPERTS)
    training = TrainingSpec(batch_clips=2, learning_rate=1e-4, router_batch_clips=2)
    return bare_run(latent, TEXT, preset, experts=EXPERTS, router=router, training=training)


def measure(preset: str, slot: str, side: int = LATENT.height) -> dict[str, float]:
    """Measures in a process of its own; returns measured and estimated bytes beyond the loaded process's."""
    command = [sys.executable, "-m", "bench.needs", "--measure", preset, slot, str(side)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _measure_here(preset: str, slot: str, side: str) -> dict[str, float]:
    import torch

    from paris_p2p.data.batches import Batch
    from paris_p2p.data.draws import UNIFORMS
    from paris_p2p.device import pick_device, resident_bytes
    from paris_p2p.model.checkpoint import write_checkpoint
    from paris_p2p.training.learner import Learner
    from paris_p2p.training.needs import training_bytes

    torch.set_num_threads(1)
    spec, device = spec_of(preset, int(side)), pick_device("cpu")
    torch.nn.functional.mse_loss(
        torch.ones(4, 4, requires_grad=True) @ torch.ones(4, 4), torch.ones(4, 4)
    ).backward()
    before, peak, done = resident_bytes(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(SAMPLE_S):
            peak = max(peak, resident_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    learner = Learner("ab" * 32, spec, slot, device)
    learner.micro_batch_clips = 1
    learner.recompute()
    generator = torch.Generator().manual_seed(0)
    clips = 2

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    batch = Batch(
        first_clip=0,
        latent=noise(clips, *spec.latent.shape).half(),
        tokens=noise(clips, TEXT.tokens, TEXT.dim).half(),
        mask=torch.ones(clips, TEXT.tokens, dtype=torch.bool),
        pooled=noise(clips, TEXT.pooled_dim).half(),
        cluster=torch.zeros(clips, dtype=torch.int64),
        noise=noise(clips, *spec.latent.shape),
        normal=noise(clips).double(),
        uniforms=torch.full((clips, UNIFORMS), 0.5, dtype=torch.float64),
    )
    with tempfile.TemporaryDirectory() as folder:
        learner.step(batch)
        stepped = peak
        write_checkpoint(Path(folder), learner.state())
    done.set()
    watcher.join()
    return {
        "parameters": learner.parameters,
        "before": before,
        "steps": stepped - before,
        "measured": peak - before,
        "estimated": LOADED_ALREADY + training_bytes(spec, slot, bf16=device.bf16),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--presets", nargs="+", default=["micro", "tiny", "small"])
    parser.add_argument("--slots", nargs="+", default=["expert-0", ROUTER])
    parser.add_argument("--side", type=int, default=LATENT.height, help="latents high and wide; eight frames")
    parser.add_argument("--measure", nargs=3, metavar=("PRESET", "SLOT", "SIDE"))
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(_measure_here(*options.measure)))
        return
    for preset in options.presets:
        for slot in options.slots:
            row = measure(preset, slot, options.side)
            print_row(
                f"training {preset} {slot}, one clip at a time",
                f"{row['measured'] / 1e6:.0f} MB measured ({row['steps'] / 1e6:.0f} before the checkpoint), "
                f"{row['estimated'] / 1e6:.0f} MB estimated; {row['parameters'] / 1e6:.2f} M parameters, "
                f"{row['before'] / 1e6:.0f} MB loaded",
            )


if __name__ == "__main__":
    main()
