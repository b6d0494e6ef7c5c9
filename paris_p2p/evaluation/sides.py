"""What is measured of each side, real clips or a model's: features, motion, aesthetic value, captions.

Legend: N clips, K experts, S steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from paris_p2p.data.prepared import SplitClip
from paris_p2p.device import Device, return_memory
from paris_p2p.errors import UsageError
from paris_p2p.evaluation.evidence import MODEL, REAL, Look, Side, TrainClips
from paris_p2p.evaluation.held_out import Held, pixels_of
from paris_p2p.evaluation.inspect import Inspection, inspect
from paris_p2p.evaluation.opened_model import model_fingerprint, open_model
from paris_p2p.evaluation.options import EvaluateOptions
from paris_p2p.evaluation.parts import Arrays, Parts
from paris_p2p.evaluation.scoring_networks import ScoringNetworks, fits
from paris_p2p.features.image import Features
from paris_p2p.features.image_text import ClipFeatures
from paris_p2p.fetched_run import FetchedRun
from paris_p2p.generation.older import open_older
from paris_p2p.progress import Progress
from paris_p2p.score.intervals import Clips
from paris_p2p.score.motion import MIN_SIDE_PIXELS, motion_px_per_frame


@dataclass(frozen=True)
class Measuring:
    """One evaluation: the clips, what looks at them, and the folder that keeps what was computed."""

    out: Path
    held: Held
    clips: list[SplitClip]
    options: EvaluateOptions
    networks: ScoringNetworks
    device: Device
    progress: Progress

    def real(self) -> Side:
        """Returns the real clips' side."""
        return self._side(REAL, REAL, lambda part: pixels_of(self.clips, part, self.held.prepared))

    def model(self, name: str, run: FetchedRun) -> Side:
        """Returns one model's side; the model is let go before its clips are looked at."""
        parts = Parts(self.out / f"{name}-{model_fingerprint(run)[:16]}", len(self.clips))
        inspection = self._make_clips(name, run, parts)
        return_memory(self.device)
        side = self._side(name, parts.folder.name, partial(parts.look, "clips", "frames"))
        return replace(
            side,
            chosen=parts.gather("clips", "chosen"),
            t=parts.gather("clips", "t")[0],
            inspection=inspection,
        )

    def probe(self, clips: list[SplitClip], titles: set[str]) -> TrainClips | None:
        """Returns real clips in the first network's features of those titled so, or None when they could not
        teach anybody to tell clusters apart.
        """
        networks = [network for network in self.networks.features if network.title in titles]
        if (
            min(len({clip.cluster for clip in clips}), len({clip.video for clip in clips})) < 2
            or not networks
        ):
            return None
        parts = Parts(self.out / f"train-{len(clips)}", len(clips))
        features = self._features(parts, networks[0], lambda part: pixels_of(clips, part, self.held.prepared))
        sources = np.array([clip.video for clip in clips])
        return TrainClips(Clips(features, sources), tuple(clip.cluster for clip in clips))

    def captions(self) -> dict[str, NDArray[np.float32]]:
        """Returns the captions as each network that sees captions too sees them, by its title: [N F]."""
        parts, found = Parts(self.out / REAL, len(self.clips)), {}
        for network in self.networks.features:
            if isinstance(network, ClipFeatures):
                kind = f"captions-{network.sha256[:12]}"
                parts.fill(
                    kind, f"captions in {network.title}"[:60], partial(self._read, network), self.progress
                )
                found[network.title] = parts.gather(kind, "captions")
        return found

    def _side(self, name: str, folder: str, look: Look) -> Side:
        parts = Parts(self.out / folder, len(self.clips))
        sources = np.array([clip.video for clip in self.clips])
        features: dict[str, Clips] = {}
        left_out: dict[str, str] = {}
        for network in self.networks.features:
            try:
                features[network.title] = Clips(self._features(parts, network, look), sources)
            except UsageError as error:
                left_out[network.title] = str(error)
        motion, shape = None, self.held.prepared.clip
        if shape.frames >= 2 and min(shape.height, shape.width) >= MIN_SIDE_PIXELS:
            motion = Clips(self._motion(parts, name, look), sources)
        else:
            left_out["Motion"] = (
                f"clips of {shape.frames} frames of {shape.height} x {shape.width}: optical flow needs "
                f"2 frames, and {MIN_SIDE_PIXELS} pixels a side"
            )
        return Side(name, look, features, motion, self._aesthetic(features), left_out)

    def _make_clips(self, name: str, run: FetchedRun, parts: Parts) -> Inspection:
        options, prepared = self.options, self.held.prepared
        model = open_model(run, options, self.device, older_of(name, run, options))

        def make(part: range) -> Arrays:
            captions, seed = [self.clips[i].caption for i in part], (options.rng_seed << 32) + part.start
            first = pixels_of(self.clips, part, prepared)[:, 0] if options.image_to_video else None
            return model.make(captions, seed, options, first)

        parts.fill("clips", f"generate with {name}", make, self.progress)
        return inspect(model, self.held, parts, self.progress)

    def _features(self, parts: Parts, network: Features, look: Look) -> NDArray[Any]:
        kind = f"features-{network.name.partition(':')[0]}-{network.sha256[:12]}-{network.frames}"

        def make(part: range) -> Arrays:
            return {"features": network(torch.from_numpy(look(part))).float().cpu().numpy()}

        parts.fill(kind, f"{network.title} of {parts.title}"[:60], make, self.progress)
        return parts.gather(kind, "features")

    def _motion(self, parts: Parts, name: str, look: Look) -> NDArray[Any]:
        def make(part: range) -> Arrays:
            return {"motion": motion_px_per_frame(look(part))[:, None]}

        parts.fill("motion", f"motion of {name}", make, self.progress)
        return parts.gather("motion", "motion")

    def _aesthetic(self, features: dict[str, Clips]) -> Clips | None:
        head = self.networks.head
        for network in self.networks.features:
            if head is not None and fits(head, network) and network.title in features:
                clips = features[network.title]
                return Clips(head(torch.from_numpy(clips.features)).numpy()[:, None], clips.sources)
        return None

    def _read(self, network: ClipFeatures, part: range) -> Arrays:
        return {"captions": network.text([self.clips[i].caption for i in part]).float().cpu().numpy()}


def older_of(name: str, run: FetchedRun, options: EvaluateOptions) -> FetchedRun | None:
    """Returns what the model called `name` is autoguided by; None for a baseline, which is another run's.
    UsageError as of open_older.
    """
    return None if options.autoguide is None or name != MODEL else open_older(options.autoguide, run)
