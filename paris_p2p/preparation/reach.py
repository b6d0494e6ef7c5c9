"""Says how far a run's own clips lie from its clusters, and so which added ones are far from all.

Legend: N clips, F features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import write_array_header_1_0
from numpy.typing import NDArray

from paris_p2p.data.addition import FEATURES_FILE, listed_clips
from paris_p2p.data.cache import Cache
from paris_p2p.data.captions import Note
from paris_p2p.data.clusters import ClusterModel
from paris_p2p.data.prepared import Prepared, SplitClip
from paris_p2p.disk import replacing
from paris_p2p.errors import DataError
from paris_p2p.features.image import Features
from paris_p2p.preparation.clustering import Entry, features_by_source
from paris_p2p.preparation.encoding import CLIPS_AT_ONCE, FP16_MAX
from paris_p2p.progress import Progress

CLUSTERS_FILE = "clusters.safetensors"
# A clip is far when it lies FAR_FACTOR times as far from the nearest centre as all but a thousandth of the
# run's own clips do. Distances of unit vectors are bounded, and another world's lie close together: with
# vizdoom and crafter (EfficientNet-lite0, 600 clips), 0.82 is that quantile and Meta-World's 300 clips lie at
# 0.80 to 0.92, so that a factor of 1.02 finds 96 % of them, and 1.1 no more than 19 %.
REACH_QUANTILE = 0.999
FAR_FACTOR = 1.02
_CLIPS_AT_ONCE = 4096


@dataclass(frozen=True)
class Far:
    """Says which clips lie beyond the run's own."""

    reach: float  # how far the run's own lie; 0: not known
    distance: Mapping[str, float]  # by key, of the far ones

    def notes(self, entries: Sequence[Entry], *, left_out: bool) -> list[Note]:
        """Returns what is to be said of each file that has far clips."""
        of_file: dict[str, list[float]] = {}
        for entry in entries:
            if entry.key in self.distance:
                of_file.setdefault(entry.source.name, []).append(self.distance[entry.key])
        what = "clips far from all clusters" + " left out" * left_out
        own = f"the run's own reach {self.reach:.3f}"
        return [
            Note(name, what, f"{len(its)} clips, up to {max(its):.3f} from the nearest; {own}")
            for name, its in sorted(of_file.items())
        ]


def find_far(entries: Sequence[Entry], cache: Cache, model: ClusterModel, own: NDArray[np.float16]) -> Far:
    """Finds the clips that lie farther from every cluster than the run's `own` [N, F] do."""
    reach = reach_of(model, own)
    lies = np.concatenate([centre_distances(model, part) for part in features_by_source(entries, cache)])
    rows = zip(entries, lies.tolist(), strict=True)
    return Far(reach, {entry.key: distance for entry, distance in rows if distance > reach})


def write_features(path: Path, entries: Sequence[Entry], cache: Cache) -> None:
    """Writes the clips' features as one array [N, F] of float16, which is read piece by piece."""
    _write(path, len(entries), features_by_source(entries, cache))


def run_features(
    folder: Path, prepared: Prepared, features: Features, progress: Progress
) -> NDArray[np.float16]:
    """Returns the features [N, F] of a prepared folder's clips, in the order of splits.json; on disk.

    Folders of older versions lack them: the owner's files are decoded again then. DataError where one is no
    longer there.
    """
    path, clips = folder / FEATURES_FILE, list(listed_clips(folder))
    found = stored_features(path, len(clips))
    if found is not None:
        return found
    _write(path, len(clips), _looked_at(clips, prepared, features, progress))
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


def stored_features(path: Path, clips: int) -> NDArray[np.float16] | None:
    """Returns the features [N, F] of so many clips, on disk; None where they are not there, or of others."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return None
    fits = found.ndim == 2 and len(found) == clips and found.dtype == np.float16
    return np.asarray(found) if fits else None


def reach_of(model: ClusterModel, features: NDArray[Any]) -> float:
    """Returns the distance beyond which a clip is far, from the run's own clips' features [N, F]."""
    return FAR_FACTOR * float(np.quantile(centre_distances(model, features), REACH_QUANTILE))


def centre_distances(model: ClusterModel, features: NDArray[Any]) -> NDArray[np.float32]:
    """Returns how far clips [N, F] lie from the nearest centre: [N]."""
    parts = [
        model.distances(features[start : start + _CLIPS_AT_ONCE].astype(np.float32))
        for start in range(0, len(features), _CLIPS_AT_ONCE)
    ]
    return np.concatenate(parts)


def _looked_at(
    clips: Sequence[SplitClip], prepared: Prepared, features: Features, progress: Progress
) -> Iterator[NDArray[np.float32]]:
    for start in range(0, len(clips), CLIPS_AT_ONCE):
        part = clips[start : start + CLIPS_AT_ONCE]
        video = np.stack([clip.pixels(prepared.clip) for clip in part])
        yield features(torch.from_numpy(video)).cpu().numpy()
        progress("look at the run's own clips", start + len(part), len(clips))


def _write(path: Path, count: int, parts: Iterator[NDArray[np.float32]]) -> None:
    """Writes float16 [N, F] in NumPy's own format, part by part: all of it need not fit the memory."""
    with replacing(path, durable=False) as file:
        at = 0
        for part in parts:
            if at == 0:
                shape = (count, part.shape[1])
                header: dict[str, Any] = {"descr": "<f2", "fortran_order": False, "shape": shape}
                write_array_header_1_0(file, header)
            file.write(part.clip(-FP16_MAX, FP16_MAX).astype("<f2").tobytes())
            at += len(part)
        if not at or at != count:
            raise DataError(f"features of {at} clips were found, of {count} in all; prepare the clips again")
