"""Measures what `--codec-equivariance` does to a trained codec, and to what an expert makes of its latents.

    .venv/bin/python -m bench.codec_equivariance [--shares 0 0.5] [--seeds 0 1 2] [--out FOLDER]

Pictures are pieces of 32 x 32 of scikit-learn's two photographs; the rightmost quarter of each is held out.
A codec is fitted on pieces (patches of 4, 8 channels), then a nano expert on its latents, without captions,
with the product's step; both are measured on held-out pieces. Fréchet distances are between pixels, on 48
principal components, of 512 pieces each.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_sample_images
from torch import Tensor

from bench.bare_run import bare_run
from bench.row import print_row
from paris_p2p.codec.equivariance import shrunk
from paris_p2p.codec.learned import LearnedOptions, fit_autoencoder, latents_of
from paris_p2p.codec.learned_image import LearnedImage
from paris_p2p.codec.video import load_codec
from paris_p2p.data.batches import Batch
from paris_p2p.data.draws import UNIFORMS
from paris_p2p.device import pick_device
from paris_p2p.disk import write_atomic
from paris_p2p.score.distances import frechet_distance
from paris_p2p.spec import LatentShape, TextShape, TrainingSpec
from paris_p2p.training.learner import Learner

SIDE, PATCH, CHANNELS = 32, 4, 8
LATENT = LatentShape(channels=CHANNELS, frames=1, height=SIDE // PATCH, width=SIDE // PATCH)
TEXT = TextShape(tokens=1, dim=4, pooled_dim=4)
CODEC_STEPS, MEASURED, COMPONENTS = 600, 512, 48
CPU = replace(pick_device("cpu"), bf16=False)
KIND = LearnedImage()


def pieces(count: int, seed: int, *, held_out: bool) -> Tensor:
    """Returns uint8 [N 1 32 32 3], anywhere in the part that is held out, or in the other."""
    rng = np.random.default_rng(seed)
    photos = load_sample_images().images
    found = []
    for _ in range(count):
        photo = photos[rng.integers(len(photos))]
        border = photo.shape[1] * 3 // 4
        first, last = (border, photo.shape[1] - SIDE) if held_out else (0, border - SIDE)
        row, column = rng.integers(photo.shape[0] - SIDE + 1), rng.integers(first, last + 1)
        found.append(photo[row : row + SIDE, column : column + SIDE])
    return torch.from_numpy(np.stack(found))[:, None].contiguous()


def decibels(made: Tensor, wanted: Tensor) -> float:
    """Returns the PSNR of pictures whose numbers lie in [-1, 1]."""
    return -10 * math.log10(max(1e-9, (made - wanted).square().mean().item() / 4))


def train_expert(latents: Tensor, steps: int, seed: int) -> Learner:
    """Returns a nano expert trained on latents [N C 1 h w], whose averaged weights are its weights."""
    training = TrainingSpec(
        batch_clips=16, learning_rate=4e-3, total_steps=steps, decay_steps=steps // 5, ema_decay=0.99
    )
    learner = Learner(f"{seed:064x}", bare_run(LATENT, TEXT, "nano", training=training), "expert-0", CPU)
    rng = torch.Generator().manual_seed(seed)
    none = torch.zeros(16, 1, TEXT.dim)
    while learner.steps < steps:
        rows = torch.randint(len(latents), (16,), generator=rng)
        learner.step(
            Batch(
                first_clip=learner.clips,
                latent=latents[rows].half(),
                tokens=none.half(),
                mask=torch.zeros(16, 1, dtype=torch.bool),
                pooled=none[:, 0].half(),
                cluster=torch.zeros(16, dtype=torch.int64),
                noise=torch.randn(16, *LATENT.shape, generator=rng),
                normal=torch.randn(16, generator=rng).double(),
                uniforms=torch.rand(16, UNIFORMS, generator=rng).double(),
            )
        )
    for name, weight in learner.weights.items():
        weight.data.copy_(learner.ema[name])
    return learner


@torch.no_grad()
def sampled(learner: Learner, count: int) -> Tensor:
    """Returns latents of 25 Euler steps: [N C 1 h w]."""
    x = torch.randn(count, *LATENT.shape, generator=torch.Generator().manual_seed(5))
    tokens, mask = torch.zeros(count, 1, TEXT.dim), torch.zeros(count, 1, dtype=torch.bool)
    for step in range(25):
        t = torch.full((count,), 1 - step / 25)
        x = x - learner.network(x, t, tokens, mask, tokens[:, 0]) / 25
    return x


def measure(share: float, seed: int, steps: int) -> dict[str, float]:
    """Returns what one codec and its expert come to."""
    options = LearnedOptions(PATCH, CHANNELS, CODEC_STEPS, rng_seed=seed, equivariance=share)
    with tempfile.TemporaryDirectory() as folder:
        path = fit_autoencoder(
            KIND,
            pieces(4096, seed, held_out=False),
            options,
            Path(folder) / "codec",
            "cpu",
            lambda *_: None,
        )
        codec = load_codec(f"diffusers:{path}")
        held_out = pieces(MEASURED, 99, held_out=True)
        x = KIND.arrange(held_out).float() / 127.5 - 1
        with torch.no_grad():
            z = latents_of(codec.model.encode(x))
            half = codec.model.decode(shrunk(z, *(side // 2 for side in z.shape[-2:]))).sample
            turned = codec.model.decode(z.rot90(1, (-2, -1))).sample
            plain = codec.model.decode(z).sample
        found = {
            "decoded, dB": decibels(plain, x),
            "half as large, dB": decibels(half, shrunk(x, SIDE // 2, SIDE // 2)),
            "turned, dB": decibels(turned, x.rot90(1, (-2, -1))),
        }
        real = _flat(held_out)
        found["Fréchet distance of the codec"] = _distance(real, codec.decode(codec.encode(held_out)))
        learner = train_expert(codec.encode(pieces(4096, seed, held_out=False)), steps, seed)
        found["of what the expert makes"] = _distance(real, codec.decode(sampled(learner, MEASURED)))
    return found


def _flat(pictures: Tensor) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    return pictures.flatten(1).double().numpy() / 255


def _distance(real: np.ndarray[tuple[int, int], np.dtype[np.float64]], made: Tensor) -> float:
    return float(frechet_distance(real, _flat(made), COMPONENTS))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shares", type=float, nargs="+", default=[0.0, 0.5])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1500, help="of the expert")
    parser.add_argument("--out", type=Path, help="a folder for every seed's numbers, as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    made: dict[str, list[dict[str, float]]] = {str(share): [] for share in options.shares}
    for seed in options.seeds:
        for share in options.shares:
            made[str(share)].append(measure(share, seed, options.steps))
            print(share, seed, made[str(share)][-1], flush=True)
            if options.out:
                write_atomic(options.out / "codec-equivariance.json", json.dumps(made, indent=1))
    for share, rows in made.items():
        words = (f"{name} {' '.join(f'{row[name]:.3g}' for row in rows)}" for name in rows[0])
        print_row(f"codec equivariance {share}", "; ".join(words))


if __name__ == "__main__":
    main()
