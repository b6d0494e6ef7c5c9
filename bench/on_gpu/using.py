"""Uses what was trained: the gate's verdict and the clips of one seed, on the device and on the CPU."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from bench.on_gpu.findings import Findings
from bench.on_gpu.made import MadeRun
from bench.on_gpu.processes import run_gate
from bench.on_gpu.setting import Setting
from bench.on_gpu.training import learnt
from paris_p2p.device import NO_BFLOAT16, pick_device
from paris_p2p.fetched_run import FetchedRun
from paris_p2p.generation.engine import Denoising
from paris_p2p.generation.export import export
from paris_p2p.generation.generate import GenerateJob, generate
from paris_p2p.generation.pipeline import ParisPipeline
from paris_p2p.generation.routed import clip_noise
from paris_p2p.generation.run_engine import open_engine
from paris_p2p.generation.schedulers import make_scheduler, solver_of
from paris_p2p.generation.wishes import Wishes
from paris_p2p.model.checkpoint import Counters
from paris_p2p.spec import ROUTER
from paris_p2p.training.messages import GateResult
from paris_p2p.training.objective import build_network

Pixels = NDArray[np.uint8]  # [B T H W 3]
GATE_SLACK = 0.01  # relative, between a GPU's loss and a CPU's: an honest attestor must not refuse for it
PSNR_DB = {"fp32": 40.0, "as it is": 25.0}  # of the same clips from another device, at least
MOST_DB = 99.0  # of clips that are equal
PROMPTS = ("a red ball rolls", "a ball")
SEED, STEPS, GUIDANCE = 7, 20, 4.0
OFFLOADS = ("enable_model_cpu_offload", "enable_sequential_cpu_offload", "enable_expert_offload")


def gate(setting: Setting, findings: Findings) -> None:
    """Asks the gate's process for a verdict on each slot, on the device and on the CPU."""
    made = setting.compared_run()
    for slot, name in (("expert-0", "expert-0"), ("expert-0", "other"), (ROUTER, ROUTER)):
        what = (
            f"gate's loss of {slot if name == slot else 'the CPU-trained ' + slot}, {setting.device} to cpu"
        )
        with findings.going_on(what):
            here, there = (
                run_gate(
                    made.gate_job(slot, learnt(made, name), device, setting.threads),
                    setting.log(f"gate-{name}-{device}"),
                    setting.left_s(),
                )
                for device in (setting.device, "cpu")
            )
            _compare(findings, what, here, there)


def _compare(findings: Findings, what: str, here: GateResult, there: GateResult) -> None:
    ratio = here.loss / there.loss if there.loss else math.nan
    findings.add(
        what,
        f"{here.loss:.5f} and {there.loss:.5f}, ratio {ratio:.5f}; attested: {here.ok} and {there.ok}"
        f"{'; ' + (here.reason or there.reason) if here.reason or there.reason else ''}",
        ok=abs(ratio - 1) <= GATE_SLACK and here.ok and there.ok,
        here=here.loss,
        cpu=there.loss,
        zero=here.reference_loss,
    )


def sample(setting: Setting, findings: Findings) -> None:
    """Makes the same clips on the device and on the CPU, and with ParisPipeline in all of its ways."""
    made, device = setting.compared_run(), setting.device
    run = fetched(made, {slot: learnt(made, slot).weights_path for slot in made.spec.slots})
    clips: dict[str, Pixels] = {}
    for kind in PSNR_DB:
        what = f"clips of one seed, {device} to cpu, {kind}"
        with findings.going_on(what), _without_bfloat16(kind == "fp32"):
            here, there = (engine_clips(run, name) for name in (device, "cpu"))
            clips[kind], db = here, psnr_db(here, there)
            least, spread = PSNR_DB[kind], float(here.std())
            findings.add(
                what,
                f"{db:.1f} dB (wanted {least:g}), pixels' deviation {spread:.1f}",
                ok=db >= least and spread > 1,
                psnr_db=db,
            )
    with findings.going_on("the same seed again"):
        again = engine_clips(run, device)
        same = bool(np.array_equal(again, clips["as it is"]))
        findings.add("the same seed again", "the same bytes" if same else "other bytes", ok=same)
    with findings.going_on("ParisPipeline"):
        _pipelines(setting, findings, run, clips["as it is"])


def _pipelines(setting: Setting, findings: Findings, run: FetchedRun, wanted: Pixels) -> None:
    folder, device = setting.folder / "exported", pick_device(setting.device)
    export(run, folder)
    dtype = torch.bfloat16 if device.bf16 else torch.float32
    pipeline = ParisPipeline.from_pretrained(folder, torch_dtype=dtype).to(str(device))
    for way in ("to", *(OFFLOADS if device.cuda else ())):
        what = f"ParisPipeline, {way}"
        with findings.going_on(what):
            if way != "to":
                pipeline = ParisPipeline.from_pretrained(folder, torch_dtype=dtype)
                getattr(pipeline, way)()
            started_at = time.monotonic()
            frames = pipeline(
                list(PROMPTS), num_inference_steps=STEPS, guidance_scale=GUIDANCE, rng_seed=SEED
            ).frames
            spent_s = time.monotonic() - started_at
            db = psnr_db(np.rint(np.asarray(frames) * 255).astype(np.uint8), wanted)
            findings.add(
                what, f"{db:.1f} dB of the engine's clips (wanted equal), {spent_s:.1f} s", ok=db == MOST_DB
            )


def engine_clips(run: FetchedRun, name: str) -> Pixels:
    """Returns a clip of each prompt, as `paris-peer generate` makes them on that device."""
    device, spec = pick_device(name), run.spec
    engine = open_engine(run, Wishes(), device)
    condition, _ = engine.encode(PROMPTS)
    numbers = [clip << 32 for clip in range(len(PROMPTS))]
    noise = clip_noise(SEED, numbers, spec.latent.shape).to(device.torch)
    scheduler = make_scheduler("euler", spec.training.time_shift)
    state = Denoising(noise, condition, GUIDANCE)
    engine.denoise(state, lambda rows: solver_of(scheduler, STEPS))
    return engine.decode(state.latents)


def generating(setting: Setting, findings: Findings) -> None:
    """Times `generate` with random weights of a larger preset, writing files included."""
    sizes, preset = setting.sizes, setting.sizes.sampled_preset
    made = setting.timed_run(preset, router="nano")
    run = fetched(made, {slot: _random_weights(made, slot) for slot in made.spec.slots})
    clips = 4
    job = GenerateJob(
        prompts=PROMPTS[:1],
        clips_per_prompt=clips,
        steps=sizes.sample_steps,
        device=setting.device,
        threads=setting.threads,
        out=setting.folder / "clips" / "clip.mp4",
    )
    for time_of in ("first", "second"):
        started_at = time.monotonic()
        result = generate(run, job)
        spent_s = time.monotonic() - started_at
        frames, height, width = made.spec.clip.frames, made.spec.clip.height, made.spec.clip.width
        findings.add(
            f"generate, {preset}, {sizes.sample_steps} steps, {time_of} time",
            f"{spent_s / clips:.2f} s a clip of {frames}x{height}x{width}, {clips} at once",
            ok=all(path.stat().st_size > 0 for path in result.paths),
            seconds_a_clip=spent_s / clips,
        )


def fetched(made: MadeRun, weights: dict[str, Path]) -> FetchedRun:
    """Returns a made run as a fetch would leave it."""
    cards = {slot: f"{number:064x}" for number, slot in enumerate(weights)}
    return FetchedRun(made.signed, weights, cards, made.codec_folder, made.text_folder)


def psnr_db(one: Pixels, other: Pixels) -> float:
    """Returns how near clips are to each other, MOST_DB for equal ones."""
    error = float(np.square(one.astype(np.float64) - other.astype(np.float64)).mean())
    return MOST_DB if error == 0 else min(MOST_DB, 10 * math.log10(255**2 / error))


def _random_weights(made: MadeRun, slot: str) -> Path:
    path = made.folder / f"{slot}.safetensors"
    network: Any = build_network(made.run, made.spec, slot)
    tensors = {name: value.detach().to(torch.bfloat16) for name, value in network.named_parameters()}
    save_file(tensors, path, Counters(made.run, slot, 1, 1).metadata("weights"))
    return path


@contextmanager
def _without_bfloat16(without: bool) -> Iterator[None]:
    """Refuses bfloat16 for a while, in this process."""
    before = os.environ.get(NO_BFLOAT16)
    if without:
        os.environ[NO_BFLOAT16] = "1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(NO_BFLOAT16, None)
        else:
            os.environ[NO_BFLOAT16] = before
