"""Makes a prepared folder without preparing.

It has random clips in real shards, a codec and a text encoder that load in a moment.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch

from paris_p2p.codec.pca import fit_pca
from paris_p2p.data.prepared import Prepared, PreparedCluster, PreparedModel, PreparedShard
from paris_p2p.envelope import Envelope
from paris_p2p.preparation.create import CreateOptions, create_run
from paris_p2p.records import CHUNK_BYTES
from paris_p2p.spec import GateSpec, LatentShape, RunSpec, TimingSpec, TrainingSpec
from tests.data.shards import clip_bytes, write_tar
from tests.made.made_run import CLIP, LATENT, TEXT, save_text_encoder

TRAIN_CLIPS, GATE_CLIPS = 12, 6  # of each cluster
FIRST_GATE_SEED = 500  # more than there are train clips of a cluster
TIMING = TimingSpec(claim_s=8.0, settle_s=0.5, margin_s=0.5, checkpoint_s=4.0)


def make_run(
    folder: Path,
    *,
    experts: int = 1,
    timing: TimingSpec = TIMING,
    padding_bytes: int = 0,
    preset: str = "nano",
    members_attest: bool = True,
    init_from: Path | None = None,
    private: bool = False,
    seal_gate: bool = False,
    compact: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Envelope[RunSpec]:
    """Prepares and creates a folder that `paris-run publish` takes.

    `padding_bytes` makes each train shard so much larger.
    """
    prepare_made(folder, experts=experts, padding_bytes=padding_bytes)
    options = CreateOptions(
        name="made",
        purpose="tests",
        data_licence="CC0",
        weights_licence="CC0",
        expert=preset,
        router="nano",
        training=TrainingSpec(
            batch_clips=4, learning_rate=1e-3, router_batch_clips=4, warmup_steps=5, compact=compact
        ),
        # random clips cannot be learnt, only learnt by heart: held-out loss rises in time
        gate=GateSpec(clips=6, tolerance=10.0, members_attest=members_attest),
        timing=timing,
        init_from=init_from,
        members_only=private,
        private=private,
        seal_gate=seal_gate or private,
    )
    return create_run(folder, options, None, say)


def prepare_made(
    folder: Path,
    *,
    experts: int = 1,
    padding_bytes: int = 0,
    latent: LatentShape = LATENT,
    train_clips: int = TRAIN_CLIPS,
    gate_clips: int = GATE_CLIPS,
    strays: bool = False,
) -> Prepared:
    """Makes a folder that `paris-run create` takes; the clips in it are LATENT, whatever it says of them.

    With `strays` every fourth clip of a cluster is like those of another, so that no router knows all.
    """
    folder.mkdir(parents=True)
    clips = {"train": train_clips, "gate": gate_clips}
    torch.manual_seed(0)
    fit_pca([torch.randint(0, 256, (4, 3, 16, 24, 3), dtype=torch.uint8)], 4, 4).save(folder / "codec")
    save_text_encoder(folder / "text")
    prepared = _prepared(folder, experts, padding_bytes, latent, clips, strays)
    prepared.write(folder)
    return prepared


def _prepared(
    folder: Path,
    experts: int,
    padding_bytes: int,
    latent: LatentShape,
    clips: dict[str, int],
    strays: bool,
) -> Prepared:
    shards = tuple(
        _shard(folder, split, k, padding_bytes, clips[split], strays)
        for split in ("train", "gate")
        for k in range(experts)
    )
    counts = {**clips, "validation": 0, "test": 0}
    return Prepared(
        fingerprint="made",
        rng_seed=0,
        clip=CLIP,
        latent=latent,
        text_shape=TEXT,
        codec=_model("pca", folder, "codec"),
        text=_model("transformers:made", folder, "text"),
        features=PreparedModel(name="none"),
        codec_psnr_db=0.0,
        experts=experts,
        clusters=tuple(PreparedCluster(cluster=k, clips=counts, silhouette=0.0) for k in range(experts)),
        shards=shards,
        captions={},
        clips={split: experts * count for split, count in counts.items()},
        sources=counts,
        skipped={},
    )


def _model(name: str, folder: Path, inside: str) -> PreparedModel:
    return PreparedModel(
        name=name, files={file.name: f"{inside}/{file.name}" for file in (folder / inside).iterdir()}
    )


def _shard(
    folder: Path, split: str, cluster: int, padding_bytes: int, count: int, strays: bool
) -> PreparedShard:
    first = 0 if split == "train" else FIRST_GATE_SEED
    members = []
    for number in range(count):
        words = {"caption": "a red ball", "source": "test", "cluster": cluster, "start_frame": 0}
        kind = cluster + (strays and number % 4 == 3)
        members.append(
            (f"{number:06}.safetensors", clip_bytes(first + number + 1000 * cluster, kind, LATENT, TEXT))
        )
        members.append((f"{number:06}.json", json.dumps(words).encode()))
    relative = f"shards/{split}/cluster-{cluster}/000000.tar"
    path = write_tar(folder / relative, members)
    if padding_bytes and split == "train":
        with path.open("ab") as file:  # after the archive's end: tar readers do not look there
            for _ in range(padding_bytes // CHUNK_BYTES):
                file.write(bytes(CHUNK_BYTES))
    return PreparedShard(
        split=split, cluster=cluster, path=relative, clips=count, size_bytes=path.stat().st_size
    )  # type: ignore[arg-type]
