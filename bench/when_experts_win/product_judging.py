"""Judges clips of the stages with the product's networks: distances, mixes of worlds, captions followed.

Legend: N clips, F features, A attributes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.when_experts_win.joint_components import joint_components
from bench.when_experts_win.product_set import UNSAID, ProductSet, mixed, tiny_features
from bench.when_experts_win.product_stages import ProductStage
from paris_p2p.errors import UsageError
from paris_p2p.features.image import load_features
from paris_p2p.score.distances import Components, frechet_distance, kernel_distance
from paris_p2p.score.fidelity import Probe, fit_probe
from paris_p2p.score.intervals import Clips, Plan

Features = dict[str, NDArray[np.float32]]  # network -> [N F]
Looker = Callable[[Tensor], NDArray[np.float32]]  # uint8 [N T H W 3] -> [N F]
PROBED_COMPONENTS = 64
FEW = Plan(resamples=50)
WORLD = "world"  # the probe that tells what kind a clip is


def lookers(networks: Sequence[str], device: str) -> dict[str, Looker]:
    """Returns what looks at clips, by the networks' names."""
    return {name: _looker(name, device) for name in networks}


def _looker(name: str, device: str) -> Looker:
    if name == "tiny":  # of the sets of tests
        return lambda pixels: tiny_features(pixels.cpu())
    network = load_features(name, device=device)

    def look(pixels: Tensor) -> NDArray[np.float32]:
        features: NDArray[np.float32] = network(pixels).float().cpu().numpy()
        return features

    return look


@dataclass(frozen=True)
class Judge:
    """Holds real clips' features, and probes of attributes fitted on train clips through the codec."""

    stage: ProductStage
    made: ProductSet

    def real(self, kind: str) -> Features:
        """Returns features of `raw`, `codec`, `floor`, whose kinds are mixed, `probe` or `validation`."""
        found = {name: self.made.real[f"{kind}/{name}"] for name in self.stage.networks}
        if kind in ("probe", "validation"):
            return found
        return {name: features[mixed(len(features))] for name, features in found.items()}

    @cached_property
    def test_rows(self) -> NDArray[np.int64]:
        """Returns the clips of the set whose features `raw` are, their kinds mixed."""
        rows = self.made.real["rows/test"].astype(np.int64)
        return rows[mixed(len(rows))]

    @cached_property
    def basis(self) -> dict[str, Components]:
        """Returns the components that probes look at, fitted on the clips they learn from."""
        kept = {}
        for name, features in self.real("probe").items():
            count = min(PROBED_COMPONENTS, len(features) - 1, features.shape[1])
            kept[name] = joint_components(features, features, count)
        return kept

    def probed(self, features: Features) -> NDArray[np.float64]:
        """Returns all networks' components side by side: [N D]."""
        return np.concatenate([self.basis[name](features[name]) for name in self.stage.networks], 1)

    @cached_property
    def probes(self) -> dict[str, Probe]:
        """Returns a probe of each attribute that clips teach it, and of the world."""
        rows = self.made.real["rows/probe"].astype(np.int64)
        inputs, sources = self.probed(self.real("probe")), self.made.source.numpy()[rows]
        found = {}
        for name, (labels, values) in self._labels().items():
            said = labels[rows] != UNSAID
            words = [values[value] for value in labels[rows][said]]
            try:
                clips = Clips(inputs[said], sources[said])
                found[name] = fit_probe(name, "all networks", clips, words, FEW)
            except UsageError:
                continue  # too few sources show one of its values
        return found

    def _labels(self) -> dict[str, tuple[NDArray[np.int64], list[str]]]:
        """Returns each attribute's values of all clips [N], and their names; the world's too."""
        columns = self.made.attributes.numpy().astype(np.int64)
        about = self.made.about
        named = {
            name: (columns[:, index], about.attributes[name]) for index, name in enumerate(about.attributes)
        }
        return {**named, WORLD: (self.made.world.numpy().astype(np.int64), about.worlds)}

    @cached_property
    def real_worlds(self) -> NDArray[np.float64]:
        """Returns the shares of worlds among real test clips through the codec, as the probe sees them."""
        return self._worlds(self.probed(self.real("codec")))[1]

    def _worlds(self, inputs: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        probe = self.probes[WORLD]
        shown = probe(inputs)  # [N]
        return shown, np.bincount(shown, minlength=len(probe.classes)) / len(shown)

    def judged(self, features: Features, rows: NDArray[np.int64]) -> dict[str, Any]:
        """Returns all numbers of clips made for the captions of `rows` [N]."""
        inputs = self.probed(features)
        found: dict[str, Any] = {}
        weights = None
        if WORLD in self.probes:
            shown, shares = self._worlds(inputs)
            weights = (self.real_worlds / np.maximum(shares, 1e-9))[shown]
            found["worlds"], found["real_worlds"] = shares, self.real_worlds
            found["mix_error"] = float(np.abs(shares - self.real_worlds).sum() / 2)
        found |= {name: self.distances(name, features[name], weights) for name in self.stage.networks}
        return found | {"fidelity": self.fidelity(inputs, rows)}

    def distances(
        self, network: str, made: NDArray[np.float32], weights: NDArray[np.float64] | None = None
    ) -> dict[str, float]:
        """Returns distances to the real test clips, raw and with the mix of worlds put right."""
        real = self.real("raw")[network]
        project = joint_components(real, made, min(self.stage.components, real.shape[1]))
        low = project(real), project(made)
        few = self.stage.kernel_samples
        found = {
            "frechet": frechet_distance(*low),
            "frechet_all": frechet_distance(real, made),
            "kernel": kernel_distance(real[:few], made[:few]),
        }
        if weights is not None:
            found["mix_right"] = frechet_distance(*low, weights=weights)
        return found

    def fidelity(self, inputs: NDArray[np.float64], rows: NDArray[np.int64]) -> dict[str, float]:
        """Returns the share of clips that show what their captions say, by attribute, and over clips.

        Attributes count in the mean where the probe is above chance on clips that it was not fitted on.
        """
        labels = self._labels()
        found: dict[str, float] = {}
        right, asked = np.zeros(len(rows)), np.zeros(len(rows))
        for name, probe in self.probes.items():
            values, names = labels[name]
            said = values[rows] != UNSAID
            if name == WORLD or not said.any():
                continue
            words = np.array(names)[values[rows][said]]
            hit = np.array(probe.classes)[probe(inputs[said])] == words
            found[name] = float(hit.mean())
            if probe.held_out.heeded:
                right[said] += hit
                asked[said] += 1
        found["mean"] = float((right[asked > 0] / asked[asked > 0]).mean()) if (asked > 0).any() else 0.0
        return found

    def floors(self) -> dict[str, Any]:
        """Returns what real clips reach: through the codec, and other real ones; and how good probes are."""
        floor, codec = self.real("floor"), self.real("codec")
        return {
            "codec": self.judged(codec, self.test_rows),
            "floor": {name: self.distances(name, floor[name]) for name in self.stage.networks},
            "probes": {name: probe.held_out.own.value for name, probe in self.probes.items()},
            "chance": {name: probe.held_out.shuffled.value for name, probe in self.probes.items()},
            "heeded": sorted(name for name, probe in self.probes.items() if probe.held_out.heeded),
        }


def look_at(latents: Tensor, codec: Any, looking: Mapping[str, Looker], part: int = 250) -> Features:
    """Returns features of decoded latents [N C T H W]."""
    found: dict[str, list[NDArray[np.float32]]] = {name: [] for name in looking}
    for some in torch.split(latents, part):
        pixels = codec.decode(some.float())
        for name, look in looking.items():
            found[name].append(look(pixels))
    return {name: np.concatenate(parts) for name, parts in found.items()}
