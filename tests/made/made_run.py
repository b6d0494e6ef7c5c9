"""Makes a run with weights for every slot, a codec and a text encoder, all small and random.

It is what a fetch leaves behind.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from bench.bare_run import bare_run
from bench.on_gpu.made import save_text_encoder
from paris_p2p.codec.pca import fit_pca
from paris_p2p.fetched_run import FetchedRun
from paris_p2p.generation.generate import GenerateJob
from paris_p2p.identity import Identity
from paris_p2p.model.checkpoint import Counters
from paris_p2p.model.presets import build_expert, build_router, expert_config, router_config
from paris_p2p.records import BlobRef
from paris_p2p.spec import (
    ROUTER,
    ClipShape,
    LatentShape,
    NetworkSpec,
    Pinned,
    RunSpec,
    TextShape,
    TrainingSpec,
    sign_run,
)
from paris_p2p.store.blob_files import hash_file
from paris_p2p.weights import find_model_files

EXPERTS = 3
CLIP = ClipShape(frames=3, height=16, width=24, fps=8.0)
LATENT = LatentShape(channels=4, frames=3, height=4, width=6)
TEXT = TextShape(tokens=6, dim=16, pooled_dim=16)
PROMPTS = ("a red ball", "rolls")


class MadeRun:
    """Holds a made run; everything lies in `folder`."""

    steps = 1  # that its weights say they were trained

    def __init__(self, folder: Path, preset: str = "nano", features: Path | None = None, **training: Any):
        torch.manual_seed(0)
        self.folder, self.codec_folder, self.text_folder = folder, folder / "codec", folder / "text"
        fit_pca([torch.randint(0, 256, (4, 3, 16, 24, 3), dtype=torch.uint8)], 4, 4).save(self.codec_folder)
        save_text_encoder(self.text_folder)
        self.features_folder = features  # of a picture network of width 16
        codec = Pinned(name="pca", files={path.name: ref_of(path) for path in self.codec_folder.iterdir()})
        text = Pinned(
            name="transformers:somewhere/else", sha256=find_model_files(str(self.text_folder)).sha256
        )
        spec = _spec(preset, codec, text, TrainingSpec(batch_clips=4, learning_rate=1e-3, **training))
        self.spec = spec if features is None else _with_features(spec, features)
        self.signed = sign_run(Identity.from_private_bytes(bytes(32)), self.spec)
        self.run = self.signed.id
        self.weights = {slot: self._write_weights(slot) for slot in self.spec.slots}
        self.cards = {slot: f"{number:064x}" for number, slot in enumerate(self.spec.slots)}

    def fetched(self, **changes: Any) -> FetchedRun:
        """Returns it as a fetch would, but for the changes."""
        folders = (self.codec_folder, self.text_folder, self.features_folder)
        return replace(FetchedRun(self.signed, self.weights, self.cards, *folders), **changes)

    def job(self, out: Path, **changes: Any) -> GenerateJob:
        """Returns wishes for two small clips, but for the changes."""
        how = {"prompts": PROMPTS, "steps": 3, "device": "cpu", "threads": 1, "out": out}
        return GenerateJob(**(how | changes))

    def _write_weights(self, slot: str) -> Path:
        network = (
            build_router(self.spec.router.config) if slot == ROUTER else build_expert(self.spec.expert.config)
        )
        tensors = {
            name: torch.randn_like(value).mul(0.2).to(torch.bfloat16)
            for name, value in network.named_parameters()
        }
        path = self.folder / f"{slot}.safetensors"
        save_file(tensors, path, Counters(self.run, slot, self.steps, self.steps).metadata("weights"))
        return path


def _spec(preset: str, codec: Pinned, text: Pinned, training: TrainingSpec) -> RunSpec:
    expert = expert_config(preset, LATENT, TEXT, first_frame=training.first_frame_rate > 0)
    return bare_run(
        LATENT,
        TEXT,
        name="made",
        purpose="Moving balls, for tests.",
        weights_licence="Apache-2.0",
        rng_seed=1,
        clip=CLIP,
        codec=codec,
        text=text,
        experts=EXPERTS,
        expert=NetworkSpec(preset=preset, config=expert),
        training=training,
    )


def _with_features(spec: RunSpec, features: Path) -> RunSpec:
    router = NetworkSpec(preset="nano", config=router_config("nano", LATENT, TEXT, EXPERTS, first_width=16))
    pinned = Pinned(name="transformers:somewhere/else", sha256=find_model_files(str(features)).sha256)
    return spec.model_copy(update={"router": router, "first_features": pinned})


def ref_of(path: Path) -> BlobRef:
    """Returns a file's reference, as its owner's node would make it."""
    manifest = hash_file(path)
    return BlobRef(id=manifest.blob_id, size_bytes=manifest.size_bytes)
