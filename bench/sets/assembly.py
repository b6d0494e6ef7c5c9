"""Makes a set of drawn parts with the product's own codec, features, clusters and text encoder.

Legend: N clips, C T H W latents, M captions, A attributes, F features.
"""

from __future__ import annotations

import math
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score

from bench.ddm_vs_monolith.results import commit
from bench.sets.parts import Kept, Known, Pixels
from bench.sets.quick_features import load_quick_features
from bench.when_experts_win.product_set import (
    CODEC,
    TEST,
    TRAIN,
    UNSAID,
    VALIDATION,
    About,
    ProductSet,
    save,
)
from paris_p2p.codec.learned import LearnedOptions, fit_autoencoder
from paris_p2p.codec.learned_image import LearnedImage
from paris_p2p.codec.pca import fit_pca
from paris_p2p.codec.text import TextBatch, load_text_encoder
from paris_p2p.codec.video import Codec, latent_shape, load_codec
from paris_p2p.data.clusters import MAX_FIT_CLIPS, ClusterModel, fit_clusters
from paris_p2p.disk import replacing
from paris_p2p.features.image import load_features
from paris_p2p.spec import ClipShape, TextShape

SPLITS = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
CLUSTERS = "clusters.safetensors"
AT_ONCE = 64
TRAINED_CODEC = "trained-image"
Say = Callable[[str], None]
Table = NDArray[np.int16]


@dataclass(frozen=True)
class Recipe:
    """Says how drawn parts become a set."""

    stage: str
    clip: ClipShape
    clusters: int
    attributes: dict[str, tuple[str, ...]]
    codec: str  # pca or train
    patch_pixels: int
    channels: int
    codec_examples: int  # clips that the codec is fitted on
    codec_steps: int = 0  # of a trained one
    feature_frames: int = 1  # of a clip, for the clusters
    held_out: int = 1000  # test and floor clips that are looked at, at most
    real_features: tuple[
        str, ...
    ] = ()  # computed here; without any the pixels are kept, to be looked at later
    probe: int = 5000  # train clips that probes of attributes are fitted on
    rng_seed: int = 0  # of splits, codec and clusters
    drawn_seed: int = 0  # of the clips


@dataclass(frozen=True)
class Drawn:
    """Holds what is known of all clips, part after part."""

    parts: list[Kept]
    known: list[Known]

    @classmethod
    def read(cls, parts: Sequence[Kept]) -> Drawn:
        return cls(list(parts), [row for part in parts for row in part.known()])

    def split(self) -> NDArray[np.uint8]:
        return np.array([SPLITS[row.split] for row in self.known], np.uint8)

    def rows(self, split: int) -> NDArray[np.int64]:
        return np.flatnonzero(self.split() == split)

    def pixels(self, rows: NDArray[np.int64]) -> Pixels:
        """Returns the pixels of clips by their rows, which rise: [n T H W 3]."""
        found, first = [], 0
        for part in self.parts:
            pixels = part.pixels()
            mine = rows[(rows >= first) & (rows < first + len(pixels))] - first
            found.append(np.asarray(pixels[mine]))
            first += len(pixels)
        return np.concatenate(found)

    def made(
        self, what: str, make: Callable[[Pixels], NDArray[Any]], say: Say = lambda _: None
    ) -> NDArray[Any]:
        """Returns what a network makes of all clips: [N …]; what it made of a part is kept."""
        made = []
        for number, part in enumerate(self.parts, 1):
            made.append(part.made(what, make))
            say(f"{what}: {number} of {len(self.parts)} parts")
        return np.concatenate(made)


def assemble(drawn: Drawn, recipe: Recipe, out: Path, work: Path, say: Say) -> About:
    """Fits codec and clusters to what is trained on, codes everything, and writes the set to `out`."""
    began_s = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    codec, decibels = _fit_codec(drawn, recipe, out, work, say)
    latents = drawn.made("latents", lambda pixels: _coded(codec, pixels), say)
    features = drawn.made("features", lambda pixels: cluster_features(pixels, recipe.feature_frames), say)
    model, cluster = find_clusters(features, drawn, recipe)
    model.save(out / CLUSTERS)
    say("clusters are found")
    known = drawn.known
    words, caption_rows = _read_captions([row.caption for row in known])
    _, length, dim = words.tokens.shape
    about = About(
        stage=recipe.stage,
        clip=recipe.clip,
        latent=latent_shape(codec, recipe.clip),
        text=TextShape(tokens=length, dim=dim, pooled_dim=words.pooled.shape[1]),
        clusters=recipe.clusters,
        attributes={name: list(values) for name, values in recipe.attributes.items()},
        worlds=list(dict.fromkeys(row.world for row in known)),
        codec="pca" if recipe.codec == "pca" else f"diffusers:{CODEC}",
        made={
            **_made(drawn, recipe, cluster),
            "codec": decibels,
            "assembly_s": round(time.monotonic() - began_s),
        },
    )
    made = ProductSet(
        about=about,
        latents=torch.from_numpy(latents),
        cluster=torch.from_numpy(cluster.astype(np.int16)),
        caption=torch.tensor([caption_rows[row.caption] for row in known], dtype=torch.int32),
        source=_counted([row.source for row in known]).int(),
        split=torch.from_numpy(drawn.split()),
        attributes=torch.from_numpy(_numbered(known, recipe)),
        world=_counted([row.world for row in known]).short(),
        tokens=words.tokens.half(),
        mask=words.mask,
        pooled=words.pooled.half(),
        real=_real(drawn, recipe, work, say),
    )
    return save(made, out, int8=True)


def _made(drawn: Drawn, recipe: Recipe, cluster: NDArray[np.int64]) -> dict[str, Any]:
    """Says how the set was made, and how its clusters lie to the worlds."""
    known = drawn.known
    table = Counter((row.world, int(k)) for row, k in zip(known, cluster, strict=True))
    worlds = list(dict.fromkeys(row.world for row in known))
    return {
        "seed": recipe.rng_seed,
        "drawn_seed": recipe.drawn_seed,
        "commit": commit(),
        "clips": dict(Counter(row.split for row in known)),
        "sources": len({row.source for row in known}),
        "captions": len({row.caption for row in known}),
        "clusters_by_world": {w: [table[w, k] for k in range(recipe.clusters)] for w in worlds},
        "rand_index": round(float(adjusted_rand_score([row.world for row in known], cluster)), 3),
    }


def _counted(names: Sequence[str]) -> torch.Tensor:
    """Returns each name's number, in the order in which they first come: [N]."""
    numbers = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return torch.tensor([numbers[name] for name in names])


@torch.inference_mode()
def cluster_features(pixels: Pixels, frames: int) -> NDArray[np.float16]:
    """Returns EfficientNet-lite0's features of clips [n F], rounded as quick_features.py says."""
    network = load_quick_features(frames)
    return np.concatenate([network(part).half().numpy() for part in _batches(pixels)])


def find_clusters(
    features: NDArray[np.float16], drawn: Drawn, recipe: Recipe
) -> tuple[ClusterModel, NDArray[np.int64]]:
    """Fits the product's two stages of k-means to train clips, and returns them with all clips' clusters."""
    train = drawn.rows(TRAIN)
    fit = np.sort(np.random.default_rng(recipe.rng_seed).permutation(train)[:MAX_FIT_CLIPS])
    sources = [drawn.known[row].source for row in fit]
    model = fit_clusters(features[fit].astype(np.float32), recipe.clusters, recipe.rng_seed, sources)
    labels = [
        model.assign(model.reduce(part.astype(np.float32)))
        for part in np.array_split(features, -(-len(features) // 4096))
    ]
    return model, np.concatenate(labels)


def decibels_of(codec: Codec, pixels: Pixels) -> float:
    """Returns how near clips come back from the codec, in dB over all their pixels."""
    squares = [
        (codec.decode(codec.encode(part)).float() - part.float()).square().mean() for part in _batches(pixels)
    ]
    return 10 * math.log10(255**2 / float(torch.stack(squares).mean()))


def _fit_codec(
    drawn: Drawn, recipe: Recipe, out: Path, work: Path, say: Say
) -> tuple[Codec, dict[str, float]]:
    """Fits the codec into `out/codec`; returns it with its decibels on validation clips, PCA's beside."""
    train, held = drawn.rows(TRAIN), drawn.rows(VALIDATION)
    chosen = np.sort(np.random.default_rng(recipe.rng_seed).permutation(train)[: recipe.codec_examples])
    examples = torch.from_numpy(drawn.pixels(chosen))
    pca = fit_pca(torch.split(examples, AT_ONCE), recipe.patch_pixels, recipe.channels)
    shown = drawn.pixels(held[: recipe.held_out])
    decibels = {"pca_db": round(decibels_of(pca, shown), 2)}
    if recipe.codec == "pca":
        pca.save(out / CODEC)
        return pca, decibels
    kind = LearnedImage()
    options = LearnedOptions(recipe.patch_pixels, recipe.channels, recipe.codec_steps, batch_frames=32)

    def progress(what: str, done: int, total: int) -> None:
        if done % 200 == 0:
            say(f"{what}: {done} of {total} steps")

    folder = fit_autoencoder(kind, kind.examples(examples), options, work / TRAINED_CODEC, "cpu", progress)
    shutil.copytree(folder, out / CODEC, dirs_exist_ok=True)
    codec = load_codec(f"diffusers:{CODEC}", out / CODEC)
    return codec, decibels | {"trained_db": round(decibels_of(codec, shown), 2)}


def _coded(codec: Codec, pixels: Pixels) -> NDArray[np.float16]:
    return np.concatenate([codec.encode(part).half().numpy() for part in _batches(pixels)])


def _batches(pixels: Pixels) -> Iterator[torch.Tensor]:
    for first in range(0, len(pixels), AT_ONCE):
        yield torch.from_numpy(np.array(pixels[first : first + AT_ONCE]))


def _read_captions(captions: Sequence[str]) -> tuple[TextBatch, dict[str, int]]:
    """Returns the embeddings of the different captions, and the row of each."""
    unique = sorted(set(captions))
    encoder = load_text_encoder("minilm")
    encoder = replace(encoder, tokens=max(encoder.count(unique)))
    parts = [encoder.encode(unique[i : i + AT_ONCE]) for i in range(0, len(unique), AT_ONCE)]
    batch = TextBatch(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(TextBatch)))
    return batch, {caption: row for row, caption in enumerate(unique)}


def _numbered(known: Sequence[Known], recipe: Recipe) -> Table:
    """Returns each clip's values of the attributes that its caption mentions, by number: [N A]."""
    return np.array(
        [
            [
                values.index(row.seen[name]) if name in row.said else UNSAID
                for name, values in recipe.attributes.items()
            ]
            for row in known
        ],
        np.int16,
    )


def _real(drawn: Drawn, recipe: Recipe, work: Path, say: Say) -> dict[str, NDArray[Any]]:
    """Returns the real test clips and as many train clips (the floor): pixels, or networks' features."""
    rng = np.random.default_rng((recipe.rng_seed, 1))
    test = np.sort(rng.permutation(drawn.rows(TEST))[: recipe.held_out])
    train = rng.permutation(drawn.rows(TRAIN))
    floor, probe = np.sort(train[: len(test)]), np.sort(train[len(test) :][: recipe.probe])
    rows = {"test": test, "floor": floor, "probe": probe}
    real: dict[str, NDArray[Any]] = {f"rows/{name}": which.astype(np.int32) for name, which in rows.items()}
    pixels_of = {"raw": drawn.pixels(test), "floor": drawn.pixels(floor)}
    if not recipe.real_features:
        return real | {f"pixels/{name}": pixels for name, pixels in pixels_of.items()}
    for name in recipe.real_features:
        for what, pixels in pixels_of.items():
            real[f"{what}/{name}"] = _looked(pixels, name, work / f"real-{what}-{name}.npy")
            say(f"{name} looked at {len(pixels)} real clips")
    return real


def _looked(pixels: Pixels, name: str, path: Path) -> NDArray[np.float16]:
    """Returns a network's features of clips [n F]; what was looked at once is read."""
    if not path.exists():
        network = load_features(name)
        features = [network(part).half().numpy() for part in _batches(pixels)]
        with replacing(path, durable=False) as file:
            np.save(file, np.concatenate(features))
    found: NDArray[np.float16] = np.load(path)
    return found
