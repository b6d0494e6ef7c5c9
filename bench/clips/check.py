"""Checks the clips: how far a caption gives its world away, what probes see, and what the clusters are.

    python -m bench.clips.check OUT

Every accuracy is on clips whose episode the probe did not see, and beside it what captions or clips dealt out
anew would give.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score

from paris_p2p.codec.text import load_text_encoder
from paris_p2p.data.clusters import fit_clusters
from paris_p2p.features.image import load_features
from paris_p2p.features.transnet import load_transnet
from paris_p2p.score.fidelity import FOLDS, fit_probe
from paris_p2p.score.intervals import Clips

AT_ONCE_CLIPS = 64
COMPONENTS = 96  # a probe sees, fitted without the labels
USABLE = 0.8  # held-out accuracy from which an attribute may stand for prompt fidelity


@dataclass(frozen=True)
class Found:
    """Holds one probe's accuracy on held-out clips."""

    what: str
    seen_by: str
    accuracy: float
    chance: float
    left_out: tuple[str, ...]  # values in too few episodes to fit


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.clips.check", description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--most", type=int, default=1200, help="clips to look at, spread over all")
    arguments = parser.parse_args()
    out: Path = arguments.out
    rows = [json.loads(line) for line in (out / "attributes.jsonl").read_text().splitlines()]
    rows = (
        [rows[number * len(rows) // arguments.most] for number in range(arguments.most)]
        if len(rows) > arguments.most
        else rows
    )
    print(f"{len(rows)} clips: {dict(Counter(row['domain'] for row in rows))}")
    text = load_text_encoder("minilm").encode([row["caption"] for row in rows]).pooled.numpy()
    for name in ("domain", "scene"):
        show(probe(name, "MiniLM of the caption", text, rows, [row[name] for row in rows]))
    features = clip_features(out, rows)
    for attribute in rows[0]["attributes"]:
        for seen_by, values in features.items():
            show(probe(attribute, seen_by, values, rows, [row["attributes"][attribute] for row in rows]))
    domains = [row["domain"] for row in rows]
    vectors = features["EfficientNet-lite0"].astype(np.float32)
    model = fit_clusters(vectors, len(set(domains)), rng_seed=0)
    found = model.assign(model.reduce(vectors))
    print(f"clusters against domains: adjusted Rand index {adjusted_rand_score(domains, found):.3f}")


def show(found: Found) -> None:
    usable = "usable" if found.accuracy >= USABLE else ""
    left_out = f"without {', '.join(found.left_out)}" if found.left_out else ""
    print(
        f"| {found.what} | {found.seen_by} | {found.accuracy:.3f} | {found.chance:.3f} | {usable} | "
        f"{left_out} |",
        flush=True,
    )


def probe(
    what: str, seen_by: str, features: NDArray[Any], rows: list[dict[str, Any]], labels: list[str]
) -> Found:
    """Fits a linear probe from features to labels, and judges each episode by one that did not see it."""
    episodes = {
        label: {row["source"] for row, own in zip(rows, labels, strict=True) if own == label}
        for label in set(labels)
    }
    rare = tuple(sorted(label for label, of_label in episodes.items() if len(of_label) < FOLDS))
    kept = [number for number, label in enumerate(labels) if label not in rare]
    components = min(COMPONENTS, features.shape[1], len(kept))
    reduced = PCA(components, svd_solver="randomized", random_state=0).fit_transform(features[kept])
    clips = Clips(reduced, np.array([rows[number]["source"] for number in kept]))
    held_out = fit_probe(what, seen_by, clips, [labels[number] for number in kept]).held_out
    return Found(what, seen_by, held_out.own.value, held_out.shuffled.value, rare)


def clip_features(out: Path, rows: list[dict[str, Any]]) -> dict[str, NDArray[Any]]:
    """Returns [N F] by the network's title."""
    networks = {network.title: network for network in (load_features("efficientnet-lite0"), load_transnet())}
    parts: dict[str, list[NDArray[Any]]] = {title: [] for title in networks}
    for videos in _batches(out, rows):
        for title, network in networks.items():
            parts[title].append(network(videos).numpy())
    return {title: np.concatenate(of_network) for title, of_network in parts.items()}


def _batches(out: Path, rows: list[dict[str, Any]]) -> Iterator[torch.Tensor]:
    for start in range(0, len(rows), AT_ONCE_CLIPS):
        clips = []
        for row in rows[start : start + AT_ONCE_CLIPS]:
            with av.open(str(out / row["file"])) as container:
                clips.append(
                    np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
                )
        yield torch.from_numpy(np.stack(clips))  # B T H W 3


if __name__ == "__main__":
    main()
