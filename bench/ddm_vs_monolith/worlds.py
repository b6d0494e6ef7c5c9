"""Looks at which world each clip shows, and at what distances are with the worlds' mix put right.

The worlds are the domains that the clips' maker names, which no caption does. A probe fitted on train clips
through the codec tells them apart. None of it is in the protocol of the rounds so far: it was added after
their results were known.
Legend: N clips of one seed, K worlds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bench.ddm_vs_monolith.compare import Comparison, Side
from paris_p2p.score.distances import frechet_distance, kernel_distance
from paris_p2p.score.fidelity import Probe, fit_probe
from paris_p2p.score.intervals import Clips, Interval, Rows

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Worlds:
    """Tells the worlds of a comparison's clips apart, from its results folder alone."""

    comparison: Comparison

    @cached_property
    def probe(self) -> Probe | None:
        """Returns the probe; None where the clips are of one world."""
        known = self.comparison.results.values("known")["probe"]
        if len(set(known["domains"])) < 2:
            return None
        features, sources = self.comparison.probe_clips
        return fit_probe(
            "world", "all components", Clips(features, sources), known["domains"], self.comparison.plan
        )

    @property
    def names(self) -> tuple[str, ...]:
        return self.probe.classes if self.probe is not None else ()

    @cached_property
    def true(self) -> NDArray[np.int64]:
        """Returns the world of each test clip, as a place in `names`: [N]."""
        return np.searchsorted(self.names, self.comparison.test["test"]["domains"]).astype(np.int64)

    def shown(self, side: Side) -> NDArray[np.int64]:
        """Returns the world that each clip shows, as the probe sees it: [seeds N]."""
        assert self.probe is not None
        return self.probe(side.everything)

    def mix(self, side: Side) -> Floats:
        """Returns the share of clips that show each world: [K]."""
        return self._shares(self.shown(side))

    @property
    def true_mix(self) -> Floats:
        return self._shares(self.true)

    def asked(self, side: Side) -> float:
        """Returns the share of clips that show the world of the clip whose caption was asked for."""
        shown = self.shown(side)
        return float((shown == self.true[np.arange(len(shown)) % len(self.true)]).mean())

    def distances(self, network: str, side: Side) -> tuple[float, float]:
        """Returns (Fréchet, kernel) distance to the real clips, of clips weighted to the real clips' mix."""
        real, made, shown = self.comparison.real.features[network], side.features[network], self.shown(side)
        weights = self._weights(np.arange(len(shown)), shown)
        return frechet_distance(real, made, weights=weights), kernel_distance(real, made, weights)

    def ratio(self, network: str, worse: Side, better: Side) -> Interval:
        """Returns how many times as far `worse` is as `better`, each with its mix put right."""
        real = self.comparison.real.features[network]
        sides = [(side.features[network], self.shown(side)) for side in (worse, better)]

        def statistic(rows: Rows) -> float:
            seen = real[rows % len(real)]
            far, near = (
                frechet_distance(seen, made[rows], weights=self._weights(rows, shown[rows]))
                for made, shown in sides
            )
            return far / near

        return self.comparison.paired(statistic, better)

    def _weights(self, rows: Rows, shown: NDArray[np.int64]) -> Floats:
        """Returns weights that give the clips of these rows the mix of the real clips of the same rows."""
        wanted = self._shares(self.true[rows % len(self.true)])
        weights: Floats = (wanted / np.maximum(self._shares(shown), 1e-9))[shown]
        return weights

    def _shares(self, worlds: NDArray[np.int64]) -> Floats:
        shares: Floats = np.bincount(worlds, minlength=len(self.names)) / len(worlds)
        return shares
