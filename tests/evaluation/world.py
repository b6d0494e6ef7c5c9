"""A small world to evaluate: sixty made videos, prepared, and a model of random weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import Dinov2Config, Dinov2Model

from paris_p2p.data.splits import SplitOptions
from paris_p2p.envelope import Envelope
from paris_p2p.evaluation.options import EvaluateOptions
from paris_p2p.fetched_run import FetchedRun
from paris_p2p.generation.export import export
from paris_p2p.generation.exported import open_export
from paris_p2p.model.checkpoint import Counters
from paris_p2p.model.presets import build_expert, build_router
from paris_p2p.node.generator import Fetched, FetchedSlot
from paris_p2p.node.host import save_spec
from paris_p2p.node.joining import GENERATOR_DIR
from paris_p2p.preparation.create import CreateOptions, create_run
from paris_p2p.preparation.prepare import PrepareOptions, prepare
from paris_p2p.score.intervals import Plan
from paris_p2p.spec import ROUTER, GateSpec, RunSpec, TimingSpec, TrainingSpec
from paris_p2p.store.blobs import BlobStore
from tests.data.videos import scene, write_video
from tests.made.made_run import save_text_encoder

OPTIONS = EvaluateOptions(clips=20, probe_clips=30, steps=2, guidance=1.0, device="cpu", threads=1)
PLAN = Plan(resamples=10, splits=4)
PREPARE = PrepareOptions(
    experts=3, frames=4, height=32, width=32, threads=1, feature_frames=1, text_tokens=6, image_to_video=True,
    splits=SplitOptions(test_share=0.3, gate_share=0.2),
)  # fmt: skip
OTHER_SEED = PREPARE.model_copy(update={"rng_seed": 1})
HOSTILE = "<script>alert(1)</script>"


@dataclass(frozen=True)
class World:
    data: Path
    model: FetchedRun
    folder: Path


def make_world(folder: Path) -> World:
    """Returns 60 videos of three kinds, prepared, and a model of random weights."""
    clips, rng = folder / "clips", np.random.default_rng(0)
    clips.mkdir()
    for i in range(60):
        write_video(clips / f"{i:03}.mp4", scene(i % 3, rng, side=32))
        (clips / f"{i:03}.txt").write_text(f"kind {i % 3} {HOSTILE}")
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    Dinov2Model(config).save_pretrained(folder / "features")
    save_text_encoder(folder / "text")
    models = {"features": f"transformers:{folder / 'features'}", "text": f"transformers:{folder / 'text'}"}
    options = PREPARE.model_copy(update=models)
    prepare(clips, folder / "data", options)
    return World(folder / "data", random_model(folder), folder)


def random_model(folder: Path) -> FetchedRun:
    """Returns a model that was exported to `folder`/model, and lies in `folder`/peer as a fetch would have
    left it, with its invite in `folder`/invite.txt.
    """
    run, weights = exported(folder, folder / "model")
    store = BlobStore(folder / "peer" / GENERATOR_DIR / "blobs")
    for path in [*(folder / "data" / "codec").rglob("*"), *(folder / "data" / "text").rglob("*")]:
        store.add_file(path)
    home = save_spec(folder / "peer" / GENERATOR_DIR, run).parent
    slots = {slot: FetchedSlot(card=run.id, weights=store.add_file(path)) for slot, path in weights.items()}
    (home / "fetched.json").write_text(Fetched(slots=slots).model_dump_json())
    (folder / "invite.txt").write_text(f"paris:{run.id}?peer=/ip4/192.0.2.1/tcp/1/p2p/{run.signer}")
    return open_export(folder / "model")


def exported(
    folder: Path, out: Path, first_frame_rate: float = 0.0
) -> tuple[Envelope[RunSpec], dict[str, Path]]:
    """Creates a run in `folder`/data, exports it with random weights to `out`, and returns both."""
    words = dict.fromkeys(("name", "purpose", "data_licence", "weights_licence"), "made")
    training = TrainingSpec(
        batch_clips=4, learning_rate=1e-3, router_batch_clips=4, first_frame_rate=first_frame_rate
    )
    options = CreateOptions(
        **words, expert="nano", router="nano", training=training, gate=GateSpec(clips=4), timing=TimingSpec()
    )
    run = create_run(folder / "data", options, None)
    spec, weights = run.record, {}
    for slot in spec.slots:
        network = build_router(spec.router.config) if slot == ROUTER else build_expert(spec.expert.config)
        tensors = {
            name: torch.randn_like(value).mul(0.05).to(torch.bfloat16)
            for name, value in network.named_parameters()
        }
        weights[slot] = out.with_name(f"{out.name}-{slot}.safetensors")
        save_file(tensors, weights[slot], Counters(run.id, slot, 1, 1).metadata("weights"))
    looks = folder / "data" / "features" if first_frame_rate else None
    fetched = FetchedRun(run, weights, {}, folder / "data" / "codec", folder / "data" / "text", looks)
    export(fetched, out)
    return run, weights


def other_data(world: World, folder: Path) -> Path:
    """Returns the same clips prepared under another seed: what was train there is held out here."""
    again = folder / "again"
    options = OTHER_SEED.model_copy(
        update={
            "text": f"transformers:{world.folder / 'text'}",
            "features": f"transformers:{world.folder / 'features'}",
        }
    )
    prepare(world.folder / "clips", again, options)
    return again
