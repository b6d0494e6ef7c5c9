"""Is a model any good? Clips for the captions of held-out ones, compared with those, and what router and
experts know of them.

Everything that takes long is kept in the report's folder, part by part. Legend: N clips, S steps, K experts,
T frames.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from blake3 import blake3
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from paris_p2p.data.prepared import Prepared, SplitClip, split_clips
from paris_p2p.device import Device, pick_device, return_memory, set_threads
from paris_p2p.errors import UsageError
from paris_p2p.evaluation.inspect import Held, Inspection, inspect
from paris_p2p.evaluation.own_data import check_not_seen, check_own_data
from paris_p2p.evaluation.parts import Arrays, Parts, claim_folder
from paris_p2p.features.aesthetic import AestheticHead, load_aesthetic
from paris_p2p.features.image import Features, check_features, load_features
from paris_p2p.features.image_text import ClipFeatures
from paris_p2p.generation.pipeline import ParisPipeline
from paris_p2p.generation.routed import check_wishes, seats_for
from paris_p2p.generation.trained import Trained
from paris_p2p.model.experts import ExpertSet
from paris_p2p.progress import Progress
from paris_p2p.score.intervals import Clips
from paris_p2p.score.motion import MIN_SIDE_PIXELS, motion_px_per_frame
from paris_p2p.spec import ROUTER

MIN_CLIPS = 4
_MORE_VIDEOS = "raise --clips, take the other --split, or prepare with more source videos"
REAL, MODEL, BASELINE = "real", "experts", "baseline"
Look = Callable[[range], NDArray[np.uint8]]  # clips -> their frames [B T H W 3]


class EvaluateOptions(BaseModel):
    """What is made and measured; changing what the clips are made from needs another folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: Literal["validation", "test"] = "test"
    clips: Annotated[int, Field(ge=MIN_CLIPS, le=1_000_000)] = 1000
    probe_clips: Annotated[int, Field(ge=0, le=1_000_000)] = 1000
    features: tuple[str, ...] = ("efficientnet-lite0", "transnetv2")
    steps: Annotated[int, Field(ge=1, le=1000)] = 50
    guidance: Annotated[float, Field(ge=0, le=1000)] = 4.0
    guidance_form: str = "per_expert"
    routing: str = "top_k"
    top_k: Annotated[int, Field(ge=1)] = 1
    rng_seed: Annotated[int, Field(ge=0, lt=1 << 31)] = 0
    image_to_video: bool = False  # every clip goes on from the first frame of the real one
    i3d_sha256: Annotated[str, Field(pattern="^([0-9a-f]{64})?$")] = ""
    aesthetic: Path | None = None  # LAION's head, on features that see captions too
    device: str = "auto"
    threads: Annotated[int, Field(ge=0, le=1024)] = 0


@dataclass(frozen=True)
class Side:
    """Real clips, or one model's: what scores are computed from."""

    name: str
    look: Look
    features: dict[str, Clips]  # by the features' title
    motion: Clips | None  # px/frame [N 1]; None where clips are too small or too short
    aesthetic: Clips | None  # [N 1]
    left_out: dict[str, str]  # what could not be computed, and why
    chosen: NDArray[np.float32] | None = None  # [N S K], of models
    t: NDArray[np.float32] | None = None  # [S], where they were chosen
    inspection: Inspection | None = None


@dataclass(frozen=True)
class ModelFacts:
    """What an exported model says of itself."""

    run: str
    run_name: str
    cards: dict[str, str]  # by slot
    trained: dict[str, Trained]  # by slot
    missing: tuple[str, ...]  # slots


@dataclass(frozen=True)
class Evidence:
    """All that the report is made from."""

    prepared: Prepared
    clips: list[SplitClip]
    real: Side
    models: list[Side]
    probe: Clips | None  # real clips of the train split in the first features
    probe_clusters: tuple[int, ...]
    captions: dict[str, NDArray[np.float32]]  # unit vectors [N F], of features that see captions too
    aesthetic: str  # the head's name, "" where there is none
    facts: dict[str, ModelFacts]  # by model
    networks: dict[str, str]  # what looked at the clips, and the sha256 of its weights


@dataclass(frozen=True)
class Baseline:
    """Another model for the same clips, and the folder its run was prepared in, where that is another one."""

    model: Path
    data: Path | None = None


def gather(
    model: Path,
    prepared_folder: Path,
    out: Path,
    options: EvaluateOptions,
    baseline: Baseline | None,
    progress: Progress,
) -> Evidence:
    """Make and keep everything; UsageError, DataError. A second call with the same arguments goes on where
    the first one stopped.
    """
    set_threads(options.threads)
    device, prepared = pick_device(options.device), Prepared.load(prepared_folder)
    clips = choose_clips(list(split_clips(prepared_folder, options.split)), options.clips, options.rng_seed)
    if len(clips) < MIN_CLIPS:
        raise UsageError(
            f"the {options.split} split of {prepared_folder} has {len(clips)} clips: "
            f"an evaluation needs {MIN_CLIPS}"
        )
    if len({clip.video for clip in clips}) < 2:
        raise UsageError(
            f"the {len(clips)} {options.split} clips are of one source video and say nothing about others: "
            f"{_MORE_VIDEOS}"
        )
    folders = {MODEL: model} | ({BASELINE: baseline.model} if baseline else {})
    named = {name: fingerprint(folder) for name, folder in folders.items()}
    configs = {name: _check_model(folder, prepared, options) for name, folder in folders.items()}
    check_own_data(model, configs[MODEL], prepared_folder, prepared)
    if baseline is not None:
        _check_baseline(baseline, configs[BASELINE], prepared_folder, prepared, clips)
    networks, head = load_networks(options, device)
    kept = options.model_dump(
        exclude={"features", "i3d_sha256", "aesthetic", "device", "threads", "probe_clips"}
    )
    claim_folder(out, {**kept, MODEL: named[MODEL], "data": prepared.fingerprint})
    held = Held(prepared_folder, prepared, options.split, options.rng_seed, options.image_to_video)
    job = _Job(out, held, clips, options, networks, head, device, progress)
    real = job.side(REAL, REAL, lambda part: _pixels(clips, part, prepared))
    models = [job.model(name, folder, named[name]) for name, folder in folders.items()]
    probe_clips = _balanced(
        list(split_clips(prepared_folder, "train")), options.probe_clips, options.rng_seed
    )
    usable = [network for network in networks if network.title in real.features]
    differ = len({clip.cluster for clip in probe_clips}) > 1 and len({clip.video for clip in probe_clips}) > 1
    probe = job.probe(probe_clips, usable[0]) if differ and usable else None
    name = f"{options.aesthetic.stem} {head.sha256[:8]}" if head and options.aesthetic else ""
    hashes = {network.title: network.sha256 for network in networks} | ({name: head.sha256} if head else {})
    facts = {name: _facts(config) for name, config in configs.items()}
    of_probe = tuple(clip.cluster for clip in probe_clips)
    return Evidence(prepared, clips, real, models, probe, of_probe, job.captions(), name, facts, hashes)


def check_named(options: EvaluateOptions) -> None:
    """Refuse what the options alone show to be wrong, before anything is fetched. PresetError, UsageError."""
    for name in options.features:
        check_features(name)
    if options.i3d_sha256 and not any(name.startswith("i3d:") for name in options.features):
        raise UsageError("--sha256 is of the I3D file, and no --features i3d:FILE is given")
    for name in options.features:
        kind, _, path = name.partition(":")
        if kind == "i3d" and not Path(path).is_file():
            raise UsageError(f"there is no file {path} for --features {name}; give the I3D file's path")
    if options.aesthetic is not None and not any(name.startswith("clip:") for name in options.features):
        raise UsageError("--aesthetic is of CLIP's features, and no --features clip: is given; add it")
    check_wishes(options.guidance_form, options.routing, options.top_k)


def load_networks(options: EvaluateOptions, device: Device) -> tuple[list[Features], AestheticHead | None]:
    """All that looks at clips; what does not fit together is refused before anything is generated.
    UsageError, BlobError.
    """
    check_named(options)
    pins = {name: options.i3d_sha256 for name in options.features if name.startswith("i3d:")}
    networks = [
        load_features(name, sha256=pins.get(name, ""), device=str(device)) for name in options.features
    ]
    if options.aesthetic is None:
        return networks, None
    head = load_aesthetic(options.aesthetic)
    widths = {network.title: network.width for network in networks if isinstance(network, ClipFeatures)}
    if len(head.weight) not in widths.values():
        given = (
            ", ".join(f"{title} gives {width}" for title, width in widths.items())
            or "no --features clip: is given"
        )
        raise UsageError(
            f"the aesthetic head {options.aesthetic} takes {len(head.weight)} features of CLIP ViT-L/14, "
            f"and {given}"
        )
    return networks, head


def choose_clips(clips: list[SplitClip], count: int, rng_seed: int) -> list[SplitClip]:
    """At most `count`, by a fixed shuffle, in their old order."""
    return [clips[i] for i in np.sort(np.random.default_rng(rng_seed).permutation(len(clips))[:count])]


def fingerprint(folder: Path) -> str:
    """Of an exported model's files; UsageError when it is none."""
    if not (folder / "model_index.json").is_file():
        raise UsageError(
            f"{folder} holds no exported run; write one with `paris-run export INVITE --out {folder}`"
        )
    hasher = blake3()
    for path in sorted(
        path for path in folder.rglob("*") if path.suffix in (".json", ".safetensors") and path.is_file()
    ):
        digest = blake3().update_mmap(path).digest() if path.stat().st_size else b""
        hasher.update(path.relative_to(folder).as_posix().encode() + b"\0" + digest)
    return hasher.hexdigest()


@dataclass(frozen=True)
class _Job:
    """One evaluation: the clips, what looks at them, and the folder that keeps what was computed."""

    out: Path
    held: Held
    clips: list[SplitClip]
    options: EvaluateOptions
    networks: list[Features]
    head: AestheticHead | None
    device: Device
    progress: Progress

    def side(self, name: str, folder: str, look: Look) -> Side:
        """Features and motion of the evaluated clips, as they look on this side."""
        parts, sources = (
            Parts(self.out / folder, len(self.clips)),
            np.array([clip.video for clip in self.clips]),
        )
        features: dict[str, Clips] = {}
        left_out, motion = {}, None
        for network in self.networks:
            try:
                features[network.title] = Clips(self._features(parts, network, look), sources)
            except UsageError as error:
                left_out[network.title] = str(error)
        shape = self.held.prepared.clip
        if shape.frames >= 2 and min(shape.height, shape.width) >= MIN_SIDE_PIXELS:
            parts.fill(
                "motion",
                f"motion of {name}",
                lambda part: {"motion": motion_px_per_frame(look(part))[:, None]},
                self.progress,
            )
            motion = Clips(parts.gather("motion", "motion"), sources)
        else:
            size = f"{shape.frames} frames of {shape.height} x {shape.width}"
            left_out["Motion"] = (
                f"clips of {size}: optical flow needs 2 frames, and {MIN_SIDE_PIXELS} pixels a side"
            )
        return Side(name, look, features, motion, self._aesthetic(features), left_out)

    def captions(self) -> dict[str, NDArray[np.float32]]:
        """Of every network that sees captions too."""
        parts, found = Parts(self.out / REAL, len(self.clips)), {}
        for network in self.networks:
            if isinstance(network, ClipFeatures):
                kind = f"captions-{network.sha256[:12]}"
                parts.fill(
                    kind, f"captions in {network.title}"[:60], partial(self._read, network), self.progress
                )
                found[network.title] = parts.gather(kind, "captions")
        return found

    def _read(self, network: ClipFeatures, part: range) -> Arrays:
        return {"captions": network.text([self.clips[i].caption for i in part]).float().cpu().numpy()}

    def _aesthetic(self, features: dict[str, Clips]) -> Clips | None:
        for network in self.networks:
            fits = (
                self.head is not None
                and isinstance(network, ClipFeatures)
                and network.width == len(self.head.weight)
            )
            if self.head is not None and fits and network.title in features:
                clips = features[network.title]
                values = self.head(torch.from_numpy(clips.features)).numpy()
                return Clips(values[:, None], clips.sources)
        return None

    def probe(self, clips: list[SplitClip], network: Features) -> Clips:
        """Real clips in features of one network."""
        parts = Parts(self.out / f"train-{len(clips)}", len(clips))
        features = self._features(parts, network, lambda part: _pixels(clips, part, self.held.prepared))
        return Clips(features, np.array([clip.video for clip in clips]))

    def model(self, name: str, folder: Path, content: str) -> Side:
        """One model's clips and what it knows; it is let go before its clips are looked at."""
        parts = Parts(self.out / f"{name}-{content[:16]}", len(self.clips))
        inspection = self._run(name, folder, parts)
        return_memory(self.device)
        side = self.side(name, parts.folder.name, partial(parts.look, "clips", "frames"))
        return replace(
            side,
            chosen=parts.gather("clips", "chosen"),
            t=parts.gather("clips", "t")[0],
            inspection=inspection,
        )

    def _run(self, name: str, folder: Path, parts: Parts) -> Inspection:
        pipeline, options = ParisPipeline.from_pretrained(folder), self.options
        pipeline.set_progress_bar_config(disable=True)
        config = pipeline.experts.config["expert"]
        pipeline.enable_expert_offload(
            str(self.device), min(pipeline.experts.total, seats_for(config, self.device))
        )

        def make(part: range) -> Arrays:
            captions, seed = [self.clips[i].caption for i in part], (options.rng_seed << 32) + part.start
            how = options.model_dump(include={"guidance_form", "routing", "top_k"})
            images = _first_frames(self.clips, part, self.held.prepared) if options.image_to_video else None
            made = pipeline(
                captions,
                num_inference_steps=options.steps,
                guidance_scale=options.guidance,
                rng_seed=seed,
                image=images,
                output_type="uint8",
                **how,
            )
            return {
                "frames": made.frames,
                "chosen": made.experts,
                "t": np.tile(made.times, (len(part), 1)),
            }

        parts.fill("clips", f"generate with {name}", make, self.progress)
        return inspect(pipeline, self.device, self.held, parts, self.progress)

    def _features(self, parts: Parts, network: Features, look: Look) -> NDArray[Any]:
        kind = f"features-{network.name.partition(':')[0]}-{network.sha256[:12]}-{network.frames}"

        def make(part: range) -> Arrays:
            return {"features": network(torch.from_numpy(look(part))).float().cpu().numpy()}

        parts.fill(kind, f"{network.title} of {parts.folder.name}"[:60], make, self.progress)
        return parts.gather(kind, "features")


def _check_model(folder: Path, prepared: Prepared, options: EvaluateOptions) -> dict[str, Any]:
    """Its config; UsageError, before anything is kept or computed, when the exported model cannot make
    what is asked.
    """
    routing = check_wishes(options.guidance_form, options.routing, options.top_k)
    config, experts = ParisPipeline.load_config(folder), ExpertSet.load_config(folder / "experts")
    _check_first_frames(folder, config.get("first_frame_rate", 0.0), options.image_to_video)
    latent = tuple(config["latent_shape"])
    if latent != prepared.latent.shape:
        shapes = f"{latent}, the prepared clips {prepared.latent.shape}"
        raise UsageError(
            f"the model {folder} has latents of {shapes}: evaluate it on the clips of its own run"
        )
    routing.check_router((folder / "router").is_dir(), len(experts["present"]))
    slots = [f"expert-{k}" for k in range(experts["total"])] + [ROUTER]
    return {**config, "slots": slots}


def _facts(config: dict[str, Any]) -> ModelFacts:
    """UsageError when the model was exported by a version that did not say how far it was trained."""
    rows = config.get("trained") or {}
    try:
        cards = {str(slot): str(row["card"]) for slot, row in rows.items()}
        trained = {
            slot: Trained(**{field.name: row[field.name] for field in fields(Trained)})
            for slot, row in rows.items()
        }
    except (AttributeError, KeyError, TypeError) as error:
        raise UsageError(
            f"the model does not say how far it was trained ({error!r}); export it again"
        ) from error
    missing = tuple(slot for slot in config["slots"] if slot not in trained)
    return ModelFacts(str(config["run"]), str(config.get("run_name") or ""), cards, trained, missing)


def _check_baseline(
    baseline: Baseline,
    config: dict[str, Any],
    prepared_folder: Path,
    prepared: Prepared,
    clips: list[SplitClip],
) -> None:
    """As the model itself; or prepared elsewhere, when none of the clips to be evaluated was trained on
    there.
    """
    if baseline.data is None:
        try:
            check_own_data(baseline.model, config, prepared_folder, prepared)
        except UsageError as error:
            raise UsageError(
                f"of the baseline: {error}; or name its own folder with --baseline-data"
            ) from error
        return
    there = Prepared.load(baseline.data)
    check_own_data(baseline.model, config, baseline.data, there)
    check_not_seen(clips, prepared.clip.frames / prepared.clip.fps, baseline.data, there)


def _check_first_frames(folder: Path, rate: float, given: bool) -> None:
    """UsageError when the model has not learnt to go with, or without, a first frame."""
    if given and not rate:
        raise UsageError(
            f"the model {folder} was not trained to go on from an image; evaluate it without --image-to-video"
        )
    if rate == 1 and not given:
        raise UsageError(f"the model {folder} was trained only to go on from an image; add --image-to-video")


def _first_frames(clips: list[SplitClip], part: range, prepared: Prepared) -> list[Image.Image]:
    return [Image.fromarray(clips[i].pixels(prepared.clip)[0]) for i in part]


def _pixels(clips: list[SplitClip], part: range, prepared: Prepared) -> NDArray[np.uint8]:
    return np.stack([clips[i].pixels(prepared.clip) for i in part])


def _balanced(clips: list[SplitClip], count: int, rng_seed: int) -> list[SplitClip]:
    """As many of each cluster where there are as many."""
    clusters = sorted({clip.cluster for clip in clips})
    each = count // max(1, len(clusters))
    return [
        clip for k in clusters for clip in choose_clips([c for c in clips if c.cluster == k], each, rng_seed)
    ]
