"""Measures clips: features of frozen networks on principal components, and motion.

Legend: N clips, T H W frames, F features, D components.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from bench.ddm_vs_monolith.data import Bench, HeldOut, open_split
from bench.when_experts_win.joint_components import joint_components
from paris_p2p.device import pick_device, set_threads
from paris_p2p.errors import UsageError
from paris_p2p.features.image import load_features
from paris_p2p.score.motion import motion_px_per_frame

BATCH_CLIPS = 32
PROBE_FILE, VALIDATION_FILE, BASIS_FILE = "probe.safetensors", "validation.safetensors", "basis.safetensors"
Pixels = NDArray[np.uint8]  # [N T H W 3]
Table = dict[str, NDArray[Any]]  # network -> [N F]


def embed(bench: Bench, pixels: Pixels) -> Table:
    """Returns each network's features of the clips."""
    device = str(pick_device().torch)
    table: Table = {}
    for name in bench.scale.features:
        network = load_features(name, device=device)
        parts = [
            network(torch.from_numpy(pixels[at : at + BATCH_CLIPS])).cpu().numpy()
            for at in range(0, len(pixels), BATCH_CLIPS)
        ]
        table[name] = np.concatenate(parts)
    return table


def through_codec(bench: Bench, held: HeldOut, rows: Sequence[int]) -> Pixels:
    """Returns the clips as their own latents give them back."""
    parts = [
        bench.codec.decode(held.latents(rows[at : at + BATCH_CLIPS])).numpy()
        for at in range(0, len(rows), BATCH_CLIPS)
    ]
    return np.concatenate(parts)


def known_job(bench: Bench) -> dict[str, Any]:
    """Measures clips that may be looked at: train clips through the codec for the probe, validation clips."""
    set_threads(bench.threads)
    train, validation = HeldOut(bench, "train"), HeldOut(bench, "validation")
    rows, held = train.pick(bench.scale.probe_clips), validation.pick(bench.scale.validation_clips)
    save_file(embed(bench, through_codec(bench, train, rows)), bench.work / PROBE_FILE)
    save_file(embed(bench, validation.pixels(held)), bench.work / VALIDATION_FILE)
    return {"probe": labels(train.made(rows)), "validation_clips": len(held)}


def test_job(bench: Bench) -> tuple[dict[str, Any], Table]:
    """Measures the real test clips, raw and through the codec, and the clips that probes are fitted on."""
    set_threads(bench.threads)
    held = open_split(bench, "test")
    rows = held.pick(bench.scale.test_clips)
    pixels = held.pixels(rows)
    real = embed(bench, pixels)
    save_basis(bench, real)
    made = held.made(rows)
    arrays: Table = {"clusters": np.array(held.clusters(rows), dtype=np.int16)}
    arrays |= {f"real.{key}": value for key, value in measured(bench, pixels, real).items()}
    arrays |= {
        f"codec.{key}": value for key, value in measured(bench, through_codec(bench, held, rows)).items()
    }
    arrays |= {
        f"probe.{key}": value
        for key, value in projected(bench, dict(load_file(bench.work / PROBE_FILE))).items()
    }
    captions = [held.clips[row].caption for row in rows]
    return {
        "clips": len(rows),
        "test": labels(made),
        "captions": [captions[row] for row in kept_rows(bench, len(rows))],
    }, arrays


def labels(made: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns what the clips' maker says of each: source video, domain, scene, attributes, those
    mentioned.
    """
    names = sorted(made[0]["attributes"])
    return {
        "sources": [row["source"] for row in made],
        "domains": [row["domain"] for row in made],
        "scenes": [row["scene"] for row in made],
        "attributes": {name: [row["attributes"][name] for row in made] for name in names},
        "mentioned": [list(row["mentioned"]) for row in made],
    }


def measured(bench: Bench, pixels: Pixels, table: Table | None = None) -> Table:
    """Returns all that the report needs of some clips: projected features, motion in pixels a frame, and a
    few pictures.
    """
    arrays = projected(bench, table if table is not None else embed(bench, pixels))
    if pixels.shape[1] > 1:
        arrays["motion"] = motion_px_per_frame(pixels).astype(np.float16)
    arrays["pictures"] = pixels[kept_rows(bench, len(pixels))]
    return arrays


def projected(bench: Bench, table: Table) -> Table:
    """Projects features, [N F] -> `features.<network>` [N D] float16."""
    basis = load_file(bench.work / BASIS_FILE)
    return {
        f"features.{k}": ((v - basis[f"mean/{k}"]) @ basis[f"axes/{k}"]).astype(np.float16)
        for k, v in table.items()
    }


def kept_rows(bench: Bench, clips: int) -> NDArray[np.int64]:
    """Returns the clips that are shown: the same ones of every sampling, chosen before any was made."""
    return np.sort(np.random.default_rng(2).permutation(clips)[: bench.scale.kept_clips])


def validation_features(path: Path) -> Table:
    return dict(load_file(path))


def trial_file(bench: Bench, arm: str, guidance: float) -> Path:
    """Returns where the features of the clips of a guidance trial are kept."""
    return bench.work / "trial-features" / f"{arm}-{guidance:g}.safetensors"


def _generated(bench: Bench) -> Table:
    """Returns features of what the arms make: of every guidance trial, whose captions are validation clips'.

    UsageError where a trial left none, as those of older versions did not.
    """
    paths = [
        trial_file(bench, arm.name, scale) for arm in bench.scale.arms for scale in bench.scale.guidances
    ]
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise UsageError(
            f"{missing[0]} is not there, and components are fitted on it: delete the results of guidance/ "
            "and run them again"
        )
    tables = [load_file(path) for path in paths]
    return {name: np.concatenate([table[name] for table in tables]) for name in bench.scale.features}


def save_basis(bench: Bench, real: Table) -> None:
    """Fits the components that all clips of a scale are looked at on, to real and generated clips together.

    The generated ones are those of the guidance trials, so that no sampling of the test split moves them.
    """
    basis: Table = {}
    generated = _generated(bench)
    for name, features in real.items():
        count = min(bench.scale.components, len(features) - 1, features.shape[1])
        components = joint_components(features, generated[name], count)
        basis[f"mean/{name}"], basis[f"axes/{name}"] = components.mean, np.ascontiguousarray(components.axes)
    save_file(basis, bench.work / BASIS_FILE)
