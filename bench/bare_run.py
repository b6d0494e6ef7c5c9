"""Makes RunSpecs that nobody prepared clips for: what a measurement or a test needs of a run."""

from __future__ import annotations

from typing import Any

from paris_p2p.spec import (
    ClipShape,
    GateSpec,
    LatentShape,
    NetworkSpec,
    Pinned,
    RunSpec,
    TextShape,
    TimingSpec,
    TrainingSpec,
)

PIXELS = 8  # a latent's side, where no clip shape is given


def bare_run(latent: LatentShape, text: TextShape, preset: str = "nano", /, **fields: Any) -> RunSpec:
    """Returns an unsigned run without shards: one expert of a preset, and the nano router.

    `fields` replace its own; the networks' numbers follow from the shapes and from `experts`.
    """
    from paris_p2p.model.presets import expert_config, router_config  # torch takes seconds to load

    experts = fields.get("experts", 1)
    bare: dict[str, Any] = {
        "name": "bare",
        "purpose": "measuring",
        "data_licence": "CC0-1.0",
        "weights_licence": "CC0-1.0",
        "created_at": 0.0,
        "rng_seed": 0,
        "clip": ClipShape(
            frames=latent.frames, height=PIXELS * latent.height, width=PIXELS * latent.width, fps=8.0
        ),
        "latent": latent,
        "codec": Pinned(name="pca"),
        "text": Pinned(name="minilm"),
        "text_shape": text,
        "experts": experts,
        "expert": NetworkSpec(preset=preset, config=expert_config(preset, latent, text)),
        "router": NetworkSpec(preset="nano", config=router_config("nano", latent, text, experts)),
        "training": TrainingSpec(batch_clips=4, learning_rate=1e-3),
        "gate": GateSpec(),
        "timing": TimingSpec(),
        "train_shards": (),
        "gate_shards": (),
    }
    return RunSpec(**(bare | fields))


def router_of(
    preset: str, latent: LatentShape, text: TextShape, experts: int, first_width: int = 0
) -> NetworkSpec:
    """Returns a router that is not the nano one, or takes a first frame's features, for `bare_run`."""
    from paris_p2p.model.presets import router_config

    return NetworkSpec(
        preset=preset, config=router_config(preset, latent, text, experts, first_width=first_width)
    )
