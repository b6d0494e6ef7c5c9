"""Trains on the device: how fast, in how much memory, whether it resumes exactly, and whether it learns as a
CPU does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from bench.on_gpu.findings import Findings
from bench.on_gpu.made import MadeRun
from bench.on_gpu.processes import Heard, checkpoint_of, run_trainer, say_of, started_of, steps_of
from bench.on_gpu.setting import Setting
from paris_p2p.device import Device, pick_device
from paris_p2p.errors import TrainError
from paris_p2p.model.presets import count_tokens
from paris_p2p.training.messages import CheckpointReady, Shrunk, TrainJob
from paris_p2p.training.needs import trainer_bytes

LEARNT = "learnt"  # folder of the checkpoints that gate and generate go on with
LOSS_SLACK = 0.02  # relative, between devices that round differently
REPEATS_SLACK = 10.0  # of the difference between two trainings alike
WARM_EVENTS = 2  # step events before the clock runs: the first has compiling in it
RUN_S = 14.0  # the least that a timed training takes
TINY_VRAM_BYTES = 48 << 20


def learn(setting: Setting, findings: Findings) -> None:
    """Trains every slot for some steps, and expert-0 on the CPU too: the same start, the same clips."""
    made, steps = setting.compared_run(), setting.sizes.learn_steps
    other = "cpu" if pick_device(setting.device).cuda else setting.device
    jobs = {
        slot: _job(setting, made, f"{LEARNT}/{slot}", slot, max_steps=steps, compile=False)
        for slot in made.spec.slots
    }
    jobs["other"] = _job(setting, made, f"{LEARNT}/other", device=other, max_steps=steps, compile=False)
    heard = _train_all(setting, "learn", jobs)
    for slot, events in heard.items():
        ready, (started, at_s) = checkpoint_of(events), started_of(events)
        (made.folder / LEARNT / f"{slot}.json").write_text(ready.model_dump_json())
        findings.add(
            f"{slot}: {steps} steps on {started.device} ({started.precision})",
            f"mean loss {ready.train_loss:.4f}, started in {at_s:.1f} s, done in {events[-1].at_s:.1f} s",
            loss=ready.train_loss,
            started_s=at_s,
            done_s=events[-1].at_s,
        )
    losses = [checkpoint_of(heard[slot]).train_loss for slot in ("expert-0", "other")]
    ratio = losses[0] / losses[1]
    findings.add(
        f"mean loss of {steps} steps, {setting.device} to {other}",
        f"ratio {ratio:.5f} (wanted 1 within {LOSS_SLACK})",
        ok=abs(ratio - 1) <= LOSS_SLACK,
        ratio=ratio,
    )


def learnt(made: MadeRun, name: str) -> CheckpointReady:
    """Returns what `learn` trained: of a slot, or `other` for the CPU's expert-0."""
    return CheckpointReady.model_validate_json((made.folder / LEARNT / f"{name}.json").read_bytes())


def resume(setting: Setting, findings: Findings) -> None:
    """Trains twice without stopping and once with, and holds the resume states beside each other."""
    made, device = setting.compared_run(), pick_device(setting.device)
    for compiled in (False, True) if device.compiles else (False,):
        kind = "compiled" if compiled else "eager"
        with findings.going_on(f"resume equals not stopping, {kind}"):
            _resume(setting, findings, made, compiled, kind)


def _resume(setting: Setting, findings: Findings, made: MadeRun, compiled: bool, kind: str) -> None:
    def job(name: str, **changes: object) -> TrainJob:
        return _job(setting, made, f"resume/{kind}-{name}", compile=compiled, **changes)

    jobs = {name: job(name, max_steps=12) for name in ("whole", "again")} | {"half": job("half", max_steps=6)}
    heard = _train_all(setting, f"resume-{kind}", jobs)
    half = checkpoint_of(heard["half"])
    at = {"resume_path": half.resume_path, "resume_steps": half.steps, "resume_clips": half.clips}
    log = setting.log(f"resume-{kind}-rest")
    rest = run_trainer(job("rest", max_steps=12, **at), log, setting.left_s())
    whole, again = (checkpoint_of(heard[name]).resume_path for name in ("whole", "again"))
    repeated, resumed = distance(whole, again), distance(whole, checkpoint_of(rest).resume_path)
    findings.add(
        f"trained twice, {kind}: largest difference",
        f"{repeated:.3g} relative" if repeated else "none: bit for bit",
        difference=repeated,
    )
    findings.add(
        f"resumed and not stopped, {kind}: largest difference",
        f"{resumed:.3g} relative" if resumed else "none: bit for bit",
        ok=resumed <= REPEATS_SLACK * repeated,
        difference=resumed,
    )
    said = say_of(log)
    findings.add(
        f"what the trainer warned of, {kind}", "; ".join(said) or "nothing", ok=not _gave_up(said) or None
    )


def distance(one: Path, other: Path) -> float:
    """Returns the largest difference of two resume states' tensors, relative to a tensor's largest value."""
    first, second = load_file(one), load_file(other)
    assert first.keys() == second.keys()
    return max(
        float((tensor - second[name]).abs().max() / tensor.abs().max().clamp(min=1e-30))
        for name, tensor in first.items()
    )


def limits(setting: Setting, findings: Findings) -> None:
    """Trains within what a peer believes a slot to need on a GPU, and within far too little."""
    device = pick_device(setting.device)
    if not device.cuda:
        findings.add("--max-vram", "not tried: this is a CPU")
        return
    preset = setting.sizes.timed_presets[0]
    made = setting.timed_run(preset)
    _, needed = trainer_bytes(made.spec, "expert-0", gpu=True, bf16=device.bf16)
    with findings.going_on(f"{preset} in the {needed >> 20} MiB that it is thought to need"):
        job = _job(setting, made, "vram", max_vram_bytes=needed, compile=False)
        heard = run_trainer(
            job, setting.log("vram"), setting.left_s(), lambda heard: len(steps_of(heard)) >= 3
        )
        shrunk = [each.event for each in heard if isinstance(each.event, Shrunk)]
        last = shrunk[-1] if shrunk else None
        findings.add(
            f"{preset} in the {needed >> 20} MiB that it is thought to need",
            f"{last.micro_batch_clips} clips at once{', computed twice' if last.recomputes else ''}, "
            f"after shrinking {len(shrunk)} times"
            if last
            else "the whole batch at once: the limit did nothing",
            ok=last is not None,
            limit_bytes=needed,
            shrunk=len(shrunk),
        )
    with findings.going_on(f"{preset} in {TINY_VRAM_BYTES >> 20} MiB says that memory does not suffice"):
        job = made.train_job(
            "expert-0", "none", setting.device, max_vram_bytes=TINY_VRAM_BYTES, compile=False
        )
        try:
            run_trainer(job, setting.log("vram-tiny"), setting.left_s(), lambda heard: bool(steps_of(heard)))
            words = "trained, though it cannot fit"
        except TrainError as error:
            words = str(error).split("; vram-tiny.log")[0]
        findings.add(
            f"{preset} in {TINY_VRAM_BYTES >> 20} MiB says that memory does not suffice",
            words[:200],
            ok=words.startswith("MemoryLimitError"),
        )


def warm(setting: Setting, findings: Findings) -> None:
    """Compiles the blocks of all timed presets side by side, so that timing them finds compiled ones."""
    device = pick_device(setting.device)
    if not device.compiles:
        findings.add("compiling", "not tried: it does not pay on this device")
        return
    jobs = {}
    for preset in setting.sizes.timed_presets:
        jobs[preset] = _job(setting, setting.timed_run(preset), "warm")

    def first_step(heard: list[Heard]) -> bool:
        return bool(steps_of(heard))

    for preset, heard in _train_all(setting, "warm", jobs, first_step).items():
        (_, started_s), (_, stepped_s) = started_of(heard), steps_of(heard)[0]
        findings.add(
            f"{preset}: first compiled step, beside {len(jobs) - 1} others",
            f"{stepped_s - started_s:.1f} s after the start",
            first_step_s=stepped_s - started_s,
        )


def speed(setting: Setting, findings: Findings) -> None:
    """Times each preset with and without compiled blocks, one after the other, as long as there is time."""
    device, sizes = pick_device(setting.device), setting.sizes
    for preset in (*sizes.timed_presets, *sizes.slow_presets):
        for compiled in (False, True) if device.compiles else (False,):
            what = f"{preset}, {'compiled' if compiled else 'eager'}"
            if setting.left_s() < RUN_S + sizes.measure_s:
                findings.add(what, "not timed: no time was left")
                continue
            with findings.going_on(what):
                _time(setting, findings, preset, compiled, device, what)


def _time(
    setting: Setting, findings: Findings, preset: str, compiled: bool, device: Device, what: str
) -> None:
    made, sizes = setting.timed_run(preset), setting.sizes
    job = _job(setting, made, "speed", compile=compiled)
    log = setting.log(f"speed-{preset}-{'compiled' if compiled else 'eager'}")

    def enough(heard: list[Heard]) -> bool:
        at = [at_s for _, at_s in steps_of(heard)]
        return len(at) > WARM_EVENTS + 1 and at[-1] - at[WARM_EVENTS] >= sizes.measure_s

    with _peak_bytes(device) as peak:
        heard = run_trainer(job, log, setting.left_s(), enough)
    steps, (started, started_s) = steps_of(heard), started_of(heard)
    (begin, begin_s), (end, end_s) = steps[WARM_EVENTS], steps[-1]
    rate = (end.clips - begin.clips) / (end_s - begin_s)
    shrunk = [each.event for each in heard if isinstance(each.event, Shrunk)]
    clips_at_once = shrunk[-1].micro_batch_clips if shrunk else started.micro_batch_clips
    tokens = count_tokens(made.spec.expert.config, made.spec.latent.shape)
    waits = [event.wait_share for event, _ in steps[WARM_EVENTS:]]
    said = say_of(log)
    findings.add(
        what,
        f"{rate:.1f} clips/s ({rate * tokens / 1e3:.0f} k tokens/s), {started.precision}, "
        f"{clips_at_once} of {started.batch_clips} clips at once, {peak() >> 20} MiB on the device, "
        f"waits {sum(waits) / len(waits):.0%} for data, first step {steps[0][1] - started_s:.1f} s",
        ok=not _gave_up(said) if compiled else None,
        clips_per_s=rate,
        tokens_per_clip=tokens,
        parameters=started.parameters,
        device_peak_bytes=peak(),
        trainer_memory_bytes=end.memory_bytes,
        micro_batch_clips=clips_at_once,
        batch_clips=started.batch_clips,
        precision=started.precision,
        wait_share=sum(waits) / len(waits),
        started_s=started_s,
        first_step_s=steps[0][1] - started_s,
        warned="; ".join(said),
    )


def _job(setting: Setting, made: MadeRun, out: str, slot: str = "expert-0", **changes: Any) -> TrainJob:
    return made.train_job(slot, out, **({"device": setting.device, "threads": setting.threads} | changes))


def _gave_up(said: list[str]) -> bool:
    return "a block was not compiled" in said


def _train_all(
    setting: Setting,
    name: str,
    jobs: dict[str, TrainJob],
    enough: Callable[[list[Heard]], bool] = lambda heard: False,
) -> dict[str, list[Heard]]:
    """Returns what trainers say that run side by side, on a CPU in turn; TrainError when one fails."""
    with ThreadPoolExecutor(1 if setting.device == "cpu" else len(jobs)) as pool:
        running = {
            key: pool.submit(run_trainer, job, setting.log(f"{name}-{key}"), setting.left_s(), enough)
            for key, job in jobs.items()
        }
        return {key: each.result() for key, each in running.items()}


@contextmanager
def _peak_bytes(device: Device) -> Iterator[Callable[[], int]]:
    """Watches what all processes together take of the GPU beyond what they took before; 0 on a CPU."""
    if not device.cuda:
        yield lambda: 0
        return
    taken, done = [_taken_bytes(device)], threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            taken.append(_taken_bytes(device))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield lambda: max(taken) - taken[0]
    finally:
        done.set()
        watcher.join()


def _taken_bytes(device: Device) -> int:
    free, total = torch.cuda.mem_get_info(device.torch)
    return total - free
