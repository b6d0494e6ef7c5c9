"""Makes a run of random clips that can be learnt, with shards, codec and text encoder in a folder.

The same arguments make the same bytes, so that each part can make it again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.bare_run import PIXELS, bare_run, router_of
from paris_p2p.data.shards import Sample, write_shards
from paris_p2p.identity import Identity
from paris_p2p.records import BlobRef
from paris_p2p.spec import (
    GateSpec,
    LatentShape,
    Pinned,
    RunSpec,
    ShardRef,
    TextShape,
    TrainingSpec,
    sign_run,
)
from paris_p2p.training.messages import CheckpointReady, GateJob, TrainJob

EXPERTS = 2
TEXT = TextShape(tokens=32, dim=384, pooled_dim=384)
SHARD_BYTES = 1 << 30
WORDS = ("a", "red", "ball", "rolls")
NOISE = 0.2  # of a clip around its cluster's pattern, whose deviation is about 1


@dataclass(frozen=True)
class Shape:
    """Says how large a made run is."""

    latent: LatentShape
    batch_clips: int
    train_clips: int  # of each cluster
    gate_clips: int


class MadeRun:
    """Holds a made run; everything lies in `folder`, and what lies there already is kept."""

    def __init__(
        self, folder: Path, shape: Shape, preset: str, router: str = "nano", clips: Path | None = None
    ):
        self.folder, self.shape = folder, shape
        folder.mkdir(parents=True, exist_ok=True)
        where = clips or folder  # runs of one shape may share their shards
        self.shards = {
            split: _shards(where, split, count, shape.latent)
            for split, count in (("train", shape.train_clips), ("gate", shape.gate_clips))
        }
        self.codec_folder, self.text_folder = where / "codec", where / "text"
        if not self.text_folder.exists():
            torch.manual_seed(0)
            save_text_encoder(self.text_folder, TEXT.dim)
        if not self.codec_folder.exists():
            _save_codec(self.codec_folder, shape.latent.channels)
        self.spec = self._spec(preset, router)
        self.signed = sign_run(Identity.from_private_bytes(bytes(32)), self.spec)
        self.run, self.spec_path = self.signed.id, folder / "run.spec"
        self.spec_path.write_bytes(self.signed.data)

    def train_job(self, slot: str, out: str, device: str, **changes: Any) -> TrainJob:
        """Returns a job that trains a slot into a folder of its own; no checkpoint before its end."""
        out_dir = self.folder / out
        out_dir.mkdir(parents=True, exist_ok=True)
        fields = {"checkpoint_s": 0, "out_dir": out_dir, "device": device} | changes
        return TrainJob(**(self._common(slot, "train") | fields))

    def gate_job(self, slot: str, ready: CheckpointReady, device: str, threads: int) -> GateJob:
        """Returns a job that checks a checkpoint as a first card."""
        checkpoint = ready.model_dump(include={"weights_path", "resume_path", "steps", "clips"})
        return GateJob(
            **self._common(slot, "gate"), **checkpoint, card="12" * 32, device=device, threads=threads
        )

    def _common(self, slot: str, split: str) -> dict[str, Any]:
        chosen = [(k, path) for k, path in enumerate(self.shards[split]) if slot in ("router", f"expert-{k}")]
        return {
            "run": self.run,
            "slot": slot,
            "spec_path": self.spec_path,
            "shard_paths": tuple(path for _, path in chosen),
            "shard_clusters": tuple(k for k, _ in chosen),
        }

    def _spec(self, preset: str, router: str) -> RunSpec:
        from paris_p2p.weights import find_model_files

        shape = self.shape
        rates = {"learning_rate": 1e-3, "router_learning_rate": 1e-3, "warmup_steps": 10}
        batch = {"batch_clips": shape.batch_clips, "router_batch_clips": shape.batch_clips}
        return bare_run(
            shape.latent,
            TEXT,
            preset,
            experts=EXPERTS,
            router=router_of(router, shape.latent, TEXT, EXPERTS),
            codec=Pinned(name="pca", files={path.name: _ref(path) for path in self.codec_folder.iterdir()}),
            text=Pinned(name="transformers:made/made", sha256=find_model_files(str(self.text_folder)).sha256),
            training=TrainingSpec(**rates, **batch),
            gate=GateSpec(clips=shape.gate_clips),
            train_shards=_refs(self.shards["train"], shape.train_clips),
            gate_shards=_refs(self.shards["gate"], shape.gate_clips),
        )


def save_text_encoder(folder: Path, width: int = 16) -> None:
    """Saves a T5 of one layer with weights of torch's own draws, and a tokenizer of a few words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    config = T5Config(vocab_size=8, d_model=width, d_kv=8, d_ff=width, num_layers=1, num_heads=2)
    T5EncoderModel(config).save_pretrained(folder)
    words = {word: index for index, word in enumerate(("<pad>", "<eos>", "<unk>", *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)


def _save_codec(folder: Path, channels: int) -> None:
    from paris_p2p.codec.pca import fit_pca

    pixels = torch.randint(0, 256, (4, 3, 64, 64, 3), generator=torch.Generator().manual_seed(0))
    fit_pca([pixels.to(torch.uint8)], PIXELS, channels).save(folder)


def _shards(root: Path, split: str, clips: int, latent: LatentShape) -> list[Path]:
    paths = [root / "shards" / split / f"cluster-{k}" / "000000.tar" for k in range(EXPERTS)]
    for k, path in enumerate(paths):
        if not path.exists():
            samples = _samples(split, k, clips, latent)
            list(write_shards(root / "shards", split, k, samples, SHARD_BYTES))  # type: ignore[arg-type]
    return paths


def _samples(split: str, cluster: int, clips: int, latent: LatentShape) -> Iterator[Sample]:
    """Yields a cluster's clips: a pattern of its own that moves, and noise."""
    rng = np.random.Generator(np.random.Philox([cluster, split == "gate"]))
    c, t, h, w = np.meshgrid(*(np.arange(side) for side in latent.shape), indexing="ij")
    for number in range(clips):
        phase = rng.uniform(0, 2 * np.pi)
        pattern = np.sqrt(2) * np.sin(phase + c + t * (1 + cluster) / 2 + (h if cluster else w) / 3)
        yield Sample(
            f"{number:06}",
            (pattern + NOISE * rng.standard_normal(latent.shape)).astype(np.float16),
            rng.standard_normal((TEXT.tokens, TEXT.dim)).astype(np.float16),
            (np.arange(TEXT.tokens) < 4 + number % 8).astype(np.uint8),
            rng.standard_normal(TEXT.pooled_dim).astype(np.float16),
            {"caption": "a red ball", "source": "made", "cluster": cluster, "start_frame": 0},
        )


def _refs(paths: list[Path], clips: int) -> tuple[ShardRef, ...]:
    return tuple(ShardRef(blob=_ref(path), clips=clips, cluster=k) for k, path in enumerate(paths))


def _ref(path: Path) -> BlobRef:
    from paris_p2p.store.blob_files import hash_file

    manifest = hash_file(path)
    return BlobRef(id=manifest.blob_id, size_bytes=manifest.size_bytes)
