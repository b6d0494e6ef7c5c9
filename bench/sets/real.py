"""Lets feature networks look at a set's real clips, where the set holds them as pixels or as latents.

Legend: n clips, T H W frames, F features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.when_experts_win.product_set import ProductSet
from paris_p2p.features.image import Features, load_features

AT_ONCE = 128
RAW = {"raw": "test", "floor": "floor"}  # features of pixels, and the rows that they are of
CODED = {"codec": "test", "probe": "probe"}  # features of clips that went through the codec


def look(made: ProductSet, networks: Sequence[str], device: str = "cpu") -> ProductSet:
    """Returns the set with the features of its real clips that it lacks: `raw`, `floor`, `codec`, `probe`.

    So every distance comes of one network on one machine.
    """
    real = dict(made.real)
    codec = made.codec(device)
    for name in networks:
        network = load_features(name, device=device)
        for what in RAW:
            if f"pixels/{what}" in real and f"{what}/{name}" not in real:
                pixels = torch.from_numpy(real[f"pixels/{what}"])
                real[f"{what}/{name}"] = _features(network, pixels.split(AT_ONCE))
        for what, rows in CODED.items():
            if f"{what}/{name}" not in real:
                latents = made.latents[torch.from_numpy(real[f"rows/{rows}"]).long()]
                real[f"{what}/{name}"] = _features(network, _decoded(codec, latents, device))
    return replace(made, real=real)


def _decoded(codec: Any, latents: Tensor, device: str) -> Iterator[Tensor]:
    for part in latents.split(AT_ONCE):
        yield codec.decode(part.float().to(device)).cpu()


def _features(network: Features, batches: Sequence[Tensor] | Iterator[Tensor]) -> NDArray[np.float32]:
    """Returns features of batches of pixels uint8 [n T H W 3]: [n F]."""
    return np.concatenate([network(part).float().cpu().numpy() for part in batches])
