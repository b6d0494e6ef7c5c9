"""A run's tips as a folder that diffusers loads with `ParisPipeline.from_pretrained(folder)`, and that
`open_export` reads back; it is written whole or not at all.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from paris_p2p import __version__
from paris_p2p.data_id import data_id_of_run
from paris_p2p.errors import ReadOnlyError, UsageError
from paris_p2p.fetched_run import FetchedRun, check_slots
from paris_p2p.generation.exported import EFFECTIVE_FILE, weights_path
from paris_p2p.generation.frozen import CODEC, FEATURES, TEXT
from paris_p2p.generation.pipeline import ParisPipeline
from paris_p2p.generation.pipeline_folder import CARD, CARDS
from paris_p2p.generation.routed import DEFAULT_CLAMP
from paris_p2p.generation.trained import trained_slots
from paris_p2p.generation.video_out import GIF_MAX_FPS
from paris_p2p.model.calibration import calibration_of
from paris_p2p.model.checkpoint import check_weights, has_two_averages
from paris_p2p.model.experts import ExpertSet
from paris_p2p.model.power_average import LENGTHS, write_of_length
from paris_p2p.model.presets import build_router
from paris_p2p.run_file import RUN_FILE, write_effective
from paris_p2p.spec import ROUTER, RunSpec


def export(run: FetchedRun, out: Path, ema_length: float = 0.0) -> None:
    """Writes `out`, which must be new or empty; one tensor is in memory at a time.

    With an `ema_length`, experts and router get the average of this length, of a run that keeps two
    (model/power_average.py); one network's is in memory at a time. CheckpointError, UsageError,
    ReadOnlyError.
    """
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty; choose another folder for the model")
    missing = check_slots(run.spec, run.weights, partial=True)
    partial = out.with_name(f".{out.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _write_pipeline(run, partial, ema_length)
        folders = {CODEC: run.codec_folder, TEXT: run.text_folder, FEATURES: run.features_folder}
        for name, folder in folders.items():
            if folder is not None:
                shutil.copytree(folder, partial / name)
        (partial / RUN_FILE).write_bytes(run.signed.data)
        if run.effective is not None:
            write_effective(partial / EFFECTIVE_FILE, run.effective)
        (partial / CARDS).write_text(json.dumps(dict(run.cards), indent=2) + "\n")
        (partial / CARD).write_text(_model_card(run, missing))
        partial.replace(out)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise ReadOnlyError(
            f"cannot write the model to {out}: {error.strerror or error}; choose another folder"
        ) from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def plain_words(folder: Path) -> str:
    """Says what an owner of sealed clips should know of an export."""
    return f"the run is sealed, the model in {folder} is not: everybody who can read that folder has it"


def _write_pipeline(run: FetchedRun, folder: Path, ema_length: float) -> None:
    """Writes what diffusers reads: the index, each network's configuration, and the weights as they are."""
    pipeline = _pipeline(run)
    pipeline.save_config(folder)
    pipeline.scheduler.save_pretrained(folder / "scheduler")
    pipeline.experts.save_config(folder / "experts")
    networks = {f"expert-{k}": pipeline.experts.expert(k) for k in run.experts}
    networks |= {ROUTER: pipeline.router} if pipeline.router is not None else {}
    for slot, network in networks.items():
        path = weights_path(folder, slot)
        network.save_config(path.parent)
        shapes = {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}
        check_weights(run.weights[slot], shapes, None)
        if ema_length or has_two_averages(run.weights[slot]):
            write_of_length(run.weights[slot], shapes, ema_length or LENGTHS[0], path)
        else:
            shutil.copyfile(run.weights[slot], path)


def _pipeline(run: FetchedRun) -> ParisPipeline:
    """Returns the pipeline without its weights, which are nowhere in memory."""
    spec = run.spec
    with torch.device("meta"):
        experts = ExpertSet(
            spec.experts, run.experts, spec.expert.config,
            ddpm=list(spec.training.ddpm_experts), clamp_x0=DEFAULT_CLAMP.x0, clamp_alpha=DEFAULT_CLAMP.alpha,
        )  # fmt: skip
        router = build_router(spec.router.config) if ROUTER in run.weights else None
    if router is not None:
        router.calibrate(calibration_of(run.weights[ROUTER]))
    return ParisPipeline(
        experts=experts,
        router=router,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=spec.training.time_shift),
        latent_shape=list(spec.latent.shape),
        fps=spec.clip.fps,
        run=run.id,
        text_tokens=spec.text_shape.tokens,
        time_mean=spec.training.time_mean,
        time_std=spec.training.time_std,
        codec_name=spec.codec.name,
        codec_revision=spec.codec.revision,
        codec_sha256=spec.codec.sha256,
        text_name=spec.text.name,
        text_revision=spec.text.revision,
        text_sha256=spec.text.sha256,
        clip_shape=[spec.clip.frames, spec.clip.height, spec.clip.width],
        first_frame_rate=spec.training.first_frame_rate,
        run_name=spec.name,
        data_id=data_id_of_run(run.signed.record),
        trained=_trained(run),
        **_features_pins(spec),
    )


def _trained(run: FetchedRun) -> dict[str, dict[str, Any]]:
    return {
        name: {"card": run.cards.get(name, ""), **asdict(slot)}
        for name, slot in trained_slots(run.spec, run.weights).items()
    }


def _features_pins(spec: RunSpec) -> dict[str, Any]:
    if spec.first_features is None:
        return {}
    return {f"features_{name}": getattr(spec.first_features, name) for name in ("name", "revision", "sha256")}


def _model_card(run: FetchedRun, missing: tuple[str, ...]) -> str:
    """Returns README.md with the metadata that model hubs read."""
    spec, cards, clip = run.spec, run.cards, run.spec.clip
    slots = "\n".join(f"| {slot} | {cards.get(slot, '')} |" for slot in spec.slots if slot not in missing)
    partial = (
        f"\n**Partial**: {', '.join(missing)} had no checkpoint; generation routes among the others.\n"
        if missing
        else ""
    )
    # more than one expert, nobody to choose
    routing = ', routing="uniform"' if ROUTER in missing and len(missing) < len(spec.slots) - 1 else ""
    return f"""---
license: other
license_name: {json.dumps(spec.weights_licence)}
library_name: diffusers
pipeline_tag: text-to-video
---
# {spec.name}

A decentralized video diffusion model: {len(spec.slots) - 1} experts ({spec.expert.preset}),
each trained alone on one cluster of the data, and a router ({spec.router.preset})
that picks experts at every denoising step.
Clips are {clip.frames} frames of {clip.height}x{clip.width} at {clip.fps:g} fps.
{partial}
- Run: `{run.id}`
- Purpose: {spec.purpose}
- Licence of the weights: {spec.weights_licence}
- Licence of the data: {spec.data_licence}
- Written by paris-p2p {__version__}

```python
from diffusers.utils import export_to_gif

from paris_p2p import ParisPipeline

pipeline = ParisPipeline.from_pretrained("this folder")
frames = pipeline("a prompt", output_type="pil"{routing}).frames  # of each clip, its pictures
export_to_gif(frames[0], "clip.gif", fps={max(1, min(GIF_MAX_FPS, round(clip.fps)))})
```

| slot | card |
|---|---|
{slots}
"""
