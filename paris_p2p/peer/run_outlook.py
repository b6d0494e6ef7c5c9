"""What taking part in a run would be like on this machine: slots that fit, their speed, disk and line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from paris_p2p.byte_size import in_units
from paris_p2p.doctor.finding import Finding, SlotOutlook
from paris_p2p.node.run_node import RunNode
from paris_p2p.node.status import slot_status
from paris_p2p.peer.machine import this_machine
from paris_p2p.peer.process import Worker
from paris_p2p.peer.room import Room
from paris_p2p.peer.summary import disk_bytes
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.rules.time_left import duration_words
from paris_p2p.rules.versions import Versions, version_words
from paris_p2p.shown import FIELD_LETTERS, shown
from paris_p2p.spec import ROUTER, RunSpec
from paris_p2p.training.messages import SpeedJob, SpeedResult
from paris_p2p.training.needs import checkpoint_bytes, trainer_bytes

TRIAL_S = 10.0
_LOADING_S = 90.0  # of torch and the network, and of a step that takes longer than the trial
_TRIAL = "paris_p2p.training.speed_trial"


@dataclass(frozen=True)
class SlotNews:
    """How far a slot got by what this machine heard; `lead` is a peer id, "" for none."""

    lead: str = ""
    steps: int = 0
    eta_s: float | None = None  # until its last step at the pace of its last tips; None: not known


@dataclass(frozen=True)
class RunFacts:
    """A run as its peers told it, without its node, which is closed when trials begin."""

    run: str
    spec: RunSpec
    spec_path: Path
    effective_path: Path | None
    news: Mapping[str, SlotNews]


def run_facts(node: RunNode, now_s: float) -> RunFacts:
    """Returns what a node knows of its run; its files are gone with it where a guest looks."""
    told = {slot: slot_status(node, slot, now_s) for slot in node.spec.slots}
    news = {slot: SlotNews(one.lead, one.steps, one.eta_s) for slot, one in told.items()}
    return RunFacts(node.run, node.spec, node.spec_file, node.spec_file_for(), news)


async def try_slots(
    facts: RunFacts, settings: PeerSettings, *, trial_s: float = TRIAL_S, room: Room | None = None
) -> dict[str, SpeedResult]:
    """Returns the speed of an expert and of the router, which stand for all slots of their kind.

    What does not fit is not tried.
    """
    room = room or Room(settings, facts.spec)
    slots = facts.spec.slots
    wanted = [settings.slot] if settings.slot in slots else [slots[0], ROUTER]
    results = {}
    for slot in dict.fromkeys(wanted):
        if room.why_not(slot):
            continue
        results[_kind(slot)] = await _try_slot(facts, slot, room.trainer_settings(), trial_s)
    return results


async def _try_slot(facts: RunFacts, slot: str, settings: PeerSettings, trial_s: float) -> SpeedResult:
    import asyncio

    job = SpeedJob(
        run=facts.run,
        slot=slot,
        spec_path=facts.spec_path,
        effective_path=facts.effective_path,
        trial_s=trial_s,
        device=settings.device,
        threads=settings.threads,
        micro_batch_clips=settings.micro_batch_clips,
        max_memory_bytes=settings.max_memory_bytes,
        max_vram_bytes=settings.max_vram_bytes,
    )
    worker, limit_s = Worker(_TRIAL), trial_s + _LOADING_S
    try:
        await worker.start(job)
        async with asyncio.timeout(limit_s):
            line = await anext(worker.lines(), b"")
        if line:
            return SpeedResult.model_validate_json(line)
        words = " / ".join(list(worker.last_words)[-2:])[:300]
        return SpeedResult(error=f"the trial of {slot} ended with status {worker.returncode}: {words}")
    except TimeoutError:
        return SpeedResult(error=f"a step of {slot} takes more than {limit_s:.0f} s here")
    finally:
        await worker.kill()


def slot_outlooks(
    facts: RunFacts,
    settings: PeerSettings,
    speeds: Mapping[str, SpeedResult],
    up_bytes_per_s: float | None,
    room: Room | None = None,
) -> tuple[SlotOutlook, ...]:
    """Returns what each slot would be like here."""
    room = room or Room(settings, facts.spec)
    return tuple(
        _outlook(facts, slot, room.why_not(slot), speeds.get(_kind(slot)), up_bytes_per_s, settings)
        for slot in facts.spec.slots
    )


def _outlook(
    facts: RunFacts,
    slot: str,
    why: str,
    speed: SpeedResult | None,
    up_bytes_per_s: float | None,
    settings: PeerSettings,
) -> SlotOutlook:
    spec, news = facts.spec, facts.news.get(slot, SlotNews())
    gpu = settings.device != "cpu" and this_machine().gpu(settings.device) is not None
    main, vram = trainer_bytes(spec, slot, gpu=gpu, bf16=True)
    tried = speed is not None and not speed.error
    clips_per_s = speed.clips_per_s if speed is not None else 0.0
    network = spec.router if slot == ROUTER else spec.expert
    return SlotOutlook(
        slot=slot,
        preset=shown(network.preset, FIELD_LETTERS),
        fits=not why,
        needs_memory_bytes=main,
        needs_vram_bytes=vram,
        micro_batch_clips=speed.micro_batch_clips if speed is not None else 0,
        clips_per_s=clips_per_s,
        checkpoint_bytes=checkpoint_bytes(spec, slot),
        upload_s=checkpoint_bytes(spec, slot) / up_bytes_per_s if up_bytes_per_s else 0.0,
        days_left=_days_left(spec, slot, news.steps, clips_per_s) if tried else None,
        lead=news.lead,
        why=why or (speed.error if speed is not None else "not tried"),
    )


def _days_left(spec: RunSpec, slot: str, steps: int, clips_per_s: float) -> float | None:
    total, training = spec.training.total_steps, spec.training
    if not total or not clips_per_s:
        return None
    size = training.router_batch_clips if slot == ROUTER else training.batch_clips
    return max(0, total - steps) * size / clips_per_s / 86400


def judge_run(
    facts: RunFacts,
    slots: tuple[SlotOutlook, ...],
    free_disk_bytes: int,
    settings: PeerSettings,
) -> list[Finding]:
    """Returns what the run is, and whether this machine is of use to it."""
    return [
        _judge_what(facts),
        _judge_slots(slots),
        _judge_disk(facts.spec, free_disk_bytes, settings),
        *_judge_speed(facts.spec, slots),
        *_judge_upload(facts.spec, slots),
    ]


def _judge_what(facts: RunFacts) -> Finding:
    spec, led = facts.spec, sum(1 for news in facts.news.values() if news.lead)
    words, numbers = _end_of(facts)
    name = shown(spec.name, FIELD_LETTERS)
    return Finding(
        check="run",
        verdict="good",
        found=f"{name}: {len(spec.slots)} slots, {led} of them led by somebody{words}",
        wanted="a run that answers",
        numbers={"slots": float(len(spec.slots)), "led": float(led)} | numbers,
    )


def _end_of(facts: RunFacts) -> tuple[str, dict[str, float]]:
    """Returns when the last slot is done at the pace of its last tips, in words and days; nothing where that
    is not known of every slot.
    """
    etas_s = [facts.news[slot].eta_s if slot in facts.news else None for slot in facts.spec.slots]
    known = [one for one in etas_s if one is not None]
    if len(known) < len(etas_s):
        return "", {}
    return f", done in about {duration_words(max(known))} as it goes now", {"eta_days": max(known) / 86400}


def _judge_slots(slots: tuple[SlotOutlook, ...]) -> Finding:
    fitting = [one.slot for one in slots if one.fits]
    why = next((one.why for one in slots if not one.fits), "")
    wanted = "one slot at least that fits this machine's memory"
    if not fitting:
        return Finding(
            check="slots",
            verdict="poor",
            found=f"none fits: {why}",
            wanted=wanted,
            mend="raise --max-memory or --max-vram where they limit it, or only attest and seed: --no-train",
        )
    rest = f"; not all: {why}" if why else ""
    return Finding(
        check="slots",
        verdict="note" if why else "good",
        found=f"{len(fitting)} of {len(slots)} fit{rest}",
        wanted=wanted,
        numbers={"fitting": float(len(fitting))},
    )


def _judge_disk(spec: RunSpec, free: int, settings: PeerSettings) -> Finding:
    least = min(disk_bytes(spec, slot) for slot in spec.slots)
    allowed = min(free, settings.max_disk_bytes or free)
    short = allowed < least
    return Finding(
        check="run-disk",
        verdict="cannot" if short else "good",
        found=f"{in_units(allowed)} may be used, the smallest slot needs {in_units(least)}",
        wanted=in_units(least),
        mend=f"free some, or allow --max-disk {-(-least // 10**6)}MB, or name another --data-dir"
        if short
        else "",
        numbers={"allowed_bytes": float(allowed), "least_bytes": float(least)},
    )


def _judge_speed(spec: RunSpec, slots: tuple[SlotOutlook, ...]) -> list[Finding]:
    tried = next((one for one in slots if one.clips_per_s and one.slot != ROUTER), None)
    failed = next((one for one in slots if one.fits and one.why and not one.clips_per_s), None)
    if tried is None:
        if failed is None:
            return []
        found = f"no trial of {failed.slot}: {failed.why}"
        verdict = "unknown" if failed.why == "not tried" else "poor"
        return [Finding.model_validate({"check": "speed", "verdict": verdict, "found": found})]
    interval_s, size = spec.timing.checkpoint_s, spec.training.batch_clips
    steps = tried.clips_per_s * interval_s / size
    left = f", {tried.days_left:.1f} days to its last step" if tried.days_left is not None else ""
    slow = steps < 1
    return [
        Finding(
            check="speed",
            verdict="poor" if slow else "good",
            found=f"{tried.slot}: {tried.clips_per_s:.3g} clips/s, {steps:,.0f} steps in a checkpoint "
            f"interval of {interval_s:g} s{left}",
            wanted="one step at least in an interval",
            mend="a GPU, more threads (--threads), or a run of smaller experts" if slow else "",
            numbers={"clips_per_s": tried.clips_per_s, "steps_an_interval": steps},
        )
    ]


def _judge_upload(spec: RunSpec, slots: tuple[SlotOutlook, ...]) -> list[Finding]:
    sent = max((one for one in slots if one.upload_s), key=lambda one: one.upload_s, default=None)
    if sent is None:
        return []
    interval_s = spec.timing.checkpoint_s
    slow = sent.upload_s > interval_s
    light = "; workers of a crew send small updates instead" if spec.crew else ""
    return [
        Finding(
            check="checkpoint-upload",
            verdict="note" if slow and spec.crew else "poor" if slow else "good",
            found=f"{in_units(sent.checkpoint_bytes)} in {sent.upload_s:.0f} s to one peer, "
            f"every {interval_s:g} s{light if slow else ''}",
            wanted="less than the run's checkpoint interval",
            mend="a line with more upload, or work in a crew" if slow else "",
            numbers={"upload_s": sent.upload_s, "interval_s": interval_s},
        )
    ]


def judge_versions(versions: Versions) -> Finding:
    """Returns whether peers of the run have a newer version of this program."""
    told = ", ".join(f"{version_words(number)} ({count})" for number, count in versions.told.items())
    silent = f"; {versions.silent} tell none" if versions.silent else ""
    found = f"this is {version_words(versions.own)}; peers: {told or 'nobody tells one'}{silent}"
    return Finding(
        check="version",
        verdict="note" if versions.is_behind else "good" if versions.told else "unknown",
        found=found + (f"; this one is behind {version_words(versions.newer)}" if versions.is_behind else ""),
        wanted="as new as the owner's node's, or two peers'",
        mend="update paris-p2p as it was installed, from its owner or its repository, and no other place"
        if versions.is_behind
        else "",
        numbers={"own": float(versions.own), "newest": float(max((*versions.told, versions.own)))},
    )


def _kind(slot: str) -> str:
    return ROUTER if slot == ROUTER else "expert"
