"""The example of two experts and a router, run small: it learns, and draws what it made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from examples import two_experts
from examples.two_experts import ENLARGED, EXPERT, LATENT, moving_digits, train
from paris_p2p.model.presets import build_expert
from paris_p2p.training.objective import expert_losses


def test_it_trains_routes_and_draws_a_row_for_each_digit(tmp_path: Path, capsys):
    two_experts.main(["--steps", "2", "--out", str(tmp_path / "a.png")])
    said = capsys.readouterr().out
    for name in (
        "expert 0: step 2, loss",
        "expert 1: step 2, loss",
        "router: step 2, loss",
        "routed right in",
    ):
        assert name in said
    with Image.open(tmp_path / "a.png") as image:
        width = 2 * LATENT.frames * LATENT.width + 2
        assert image.size == (ENLARGED * width, ENLARGED * 10 * LATENT.height)
        real = np.asarray(image)[:, : ENLARGED * LATENT.frames * LATENT.width]
    assert all(row.max() > 200 for row in np.split(real, 10))  # a digit in each row


def test_the_same_seed_draws_the_same_picture(tmp_path: Path):
    pictures = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        two_experts.main(["--steps", "1", "--seed", seed, "--out", str(tmp_path / f"{name}.png")])
        pictures.append((tmp_path / f"{name}.png").read_bytes())
    assert pictures[0] == pictures[1] != pictures[2]


def test_an_expert_learns_from_its_own_clusters_clips():
    torch.manual_seed(0)
    clips, digits, clusters = moving_digits()
    own = (clips[clusters == 1], digits[clusters == 1], clusters[clusters == 1])
    assert set(own[1].tolist()) == {5, 6, 7, 8, 9}
    expert = build_expert(EXPERT)
    seen = train("expert 1", expert, own, lambda e, batch, t: expert_losses(e, batch, t, batch.mask), 15)
    assert np.mean(seen[-3:]) < 0.9 * np.mean(seen[:3])


def test_digits_move_as_their_cluster_does():
    clips, digits, clusters = moving_digits()
    assert clips.shape == (len(digits), *LATENT.shape)
    first, last = clips[:, 0, 0] + 1, clips[:, 0, -1] + 1  # [N H W]
    for cluster, axis in ((0, 2), (1, 1)):
        rows = clusters == cluster
        moved = first[rows].roll(LATENT.frames - 1, dims=axis)
        assert torch.equal(moved, last[rows])
