"""One scale for all channels is the same codec, seen otherwise."""

from __future__ import annotations

import torch

from bench.latents import _one_deviation
from paris_p2p.codec.pca import PcaCodec, fit_pca


def test_one_deviation_multiplies_the_latents_and_changes_no_picture(tmp_path):
    clips = torch.randint(
        0, 256, (6, 2, 16, 16, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    clips[:, :, :8] //= 4  # so that channels differ in size
    own = fit_pca([clips], 8, 6)
    own.save(tmp_path)
    factors = torch.from_numpy(_one_deviation(tmp_path))
    alike = PcaCodec.load(tmp_path)
    assert torch.isclose(factors.square().mean(), torch.ones(()))
    assert factors.max() > 1.05 * factors.min()
    latents = own.encode(clips)
    assert torch.allclose(alike.encode(clips), latents * factors[:, None, None, None], atol=1e-4)
    given, back = own.decode(latents).int(), alike.decode(latents * factors[:, None, None, None]).int()
    assert (given - back).abs().max() <= 1  # rounding to 8 bits
