"""Looks at a machine, its line and a run, and tells what stands in the way of taking part: `paris doctor`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from paris_p2p import __version__
from paris_p2p.disk import free_bytes
from paris_p2p.doctor.disks import judge_disk, read_disk
from paris_p2p.doctor.finding import EXIT_STATUS, Diagnosis, Finding, SlotOutlook, worst_of
from paris_p2p.doctor.graphics import CardFacts, TorchFacts, judge_graphics, look_at_graphics, read_torch
from paris_p2p.doctor.identities import has_node, judge_identity, judge_twin, read_identity
from paris_p2p.doctor.line_reach import ReachFacts, judge_reach
from paris_p2p.doctor.main_memory import judge_memory, read_memory
from paris_p2p.doctor.process_limits import judge_limits, read_limits
from paris_p2p.doctor.processor import judge_processor, read_processor
from paris_p2p.doctor.side_by_side import Check, look_side_by_side, unknown
from paris_p2p.doctor.software import judge_software, read_software
from paris_p2p.doctor.time_servers import judge_clock, read_clock, told_by_peers
from paris_p2p.errors import ClockError, ParisError, PortInUseError, SwarmError, UnreachableError
from paris_p2p.invite import Invite
from paris_p2p.node.control_client import ask_control
from paris_p2p.node.line_look import MOST_BYTES, MOST_S, look_at_line
from paris_p2p.node.run_look import LINE_QUESTION, RunLook, looking_at_run
from paris_p2p.node.run_records import own_version
from paris_p2p.peer.run_outlook import (
    TRIAL_S,
    RunFacts,
    judge_run,
    judge_versions,
    run_facts,
    slot_outlooks,
    try_slots,
)
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.rules.versions import compare_versions
from paris_p2p.sensors.gpu import GpuReport, Nvml
from paris_p2p.swarm.daemon import check_port_free

SLOW_S, TORCH_S = 15.0, 60.0  # a check's time; of those that load torch
NETWORK_S = 150.0
Telling = Callable[[str], None]


@dataclass
class Looked:
    """Gathers what was found."""

    findings: list[Finding] = field(default_factory=list)
    slots: tuple[SlotOutlook, ...] = ()


def examine(
    settings: PeerSettings,
    invite: Invite | None = None,
    *,
    offline: bool = False,
    trial_s: float = TRIAL_S,
    say: Telling = lambda words: None,
) -> Diagnosis:
    """Returns what stands in the way of taking part, in a run where an invite is given.

    It raises nothing for what it finds: what could not be looked at is `unknown`, with why.
    """
    looked = Looked(look_side_by_side(machine_checks(settings.data_dir, offline=offline)))
    if offline:
        looked.findings.append(_not_looked("it was not asked for (--offline)"))
    elif invite is not None:
        asyncio.run(_look_at_run(settings, invite, looked, trial_s, say))
    elif has_node(settings.data_dir):
        looked.findings += _line_of_running_peer(settings.data_dir, say)
    else:
        looked.findings += [_own_port(settings), _not_looked("an invite names peers: paris doctor INVITE")]
    return report_of(looked, invite.run if invite is not None else "")


def report_of(looked: Looked, run: str = "") -> Diagnosis:
    """Returns the report of what was found by now."""
    findings = told_by_peers(looked.findings)
    verdict = worst_of(findings)
    return Diagnosis(
        at=time.time(),
        version=__version__,
        verdict=verdict,
        exit_status=EXIT_STATUS[verdict],
        run=run,
        findings=tuple(findings),
        slots=looked.slots,
    )


def machine_checks(data_dir: Path, *, quick: bool = False, offline: bool = False) -> list[Check]:
    """Returns the checks of the machine itself; quick ones load no torch, write nothing and ask nobody."""
    checks = [
        Check("software", lambda: judge_software(read_software()), SLOW_S),
        Check("processor", partial(_processor, quick), TORCH_S),
        Check("gpu", partial(_graphics, None if quick else read_torch), TORCH_S),
        Check("memory", lambda: judge_memory(read_memory()), SLOW_S),
        Check("disk", partial(_disk, data_dir, quick), SLOW_S),
        Check("limits", lambda: judge_limits(read_limits()), SLOW_S),
        Check("identity", lambda: judge_identity(read_identity(data_dir)), SLOW_S),
    ]
    if not quick and not offline:
        checks.append(Check("clock", lambda: judge_clock(read_clock()), SLOW_S))
    return checks


def quick_look(data_dir: Path) -> list[Finding]:
    """Returns what keeps a peer from starting, or makes it poor; it takes less than a second."""
    return [one for one in look_side_by_side(machine_checks(data_dir, quick=True)) if one.verdict in _BAD]


def check_quickly(data_dir: Path, say: Telling) -> None:
    """Says what makes this machine poor; ParisError for what cannot work, with what mends it."""
    for one in quick_look(data_dir):
        if one.verdict == "cannot" and one.check != "disk":  # what a run needs of it is asked of the run
            raise ParisError(f"{one.check}: {one.found}; wanted: {one.wanted}; {one.mend}")
        say(f"{one.check}: {one.found}; {one.mend} (`paris doctor` says more)")


_BAD = ("poor", "cannot")


def _processor(quick: bool) -> Finding:
    def has_bf16() -> bool:
        from paris_p2p.device import pick_device

        return pick_device("cpu").bf16

    return judge_processor(read_processor(None if quick else has_bf16))


def _graphics(ask_torch: Callable[[], TorchFacts] | None) -> list[Finding]:
    return judge_graphics(look_at_graphics(_cards, ask_torch))


def _cards() -> tuple[Sequence[CardFacts], str, str]:
    nvml = Nvml()
    try:
        report: GpuReport = nvml.read()
    finally:
        nvml.close()
    cards = [
        CardFacts(
            gpu.name,
            gpu.memory_bytes,
            gpu.free_bytes,
            tuple((one.pid, one.name, one.used_bytes) for one in gpu.holders),
        )
        for gpu in report.gpus
    ]
    return cards, report.driver, report.why_none


def _disk(data_dir: Path, quick: bool) -> list[Finding]:
    return judge_disk(read_disk(data_dir, trial=not quick))


# the network


def _own_port(settings: PeerSettings) -> Finding:
    named, wanted = f"port {settings.port}" if settings.port else "any free port", "a port of its own"
    try:
        check_port_free(settings.host, settings.port)
    except (PortInUseError, SwarmError) as error:
        mend = "choose another --port, or none"
        return Finding(check="port", verdict="poor", found=str(error), wanted=wanted, mend=mend)
    found = f"{named} can be listened at; whether others reach it, a run's peers can tell"
    return Finding(check="port", verdict="note", found=found, wanted=wanted)


def _not_looked(why: str) -> Finding:
    found = f"whether others reach this machine, and how fast, was not looked at: {why}"
    return Finding(check="network", verdict="note", found=found)


def _line_of_running_peer(data_dir: Path, say: Telling) -> list[Finding]:
    """Has the peer that runs here look at its own line: it holds the port that matters."""
    say(f"the peer that runs here looks at its line: {_LINE_WORDS}")
    try:
        answer = ask_control(data_dir, LINE_QUESTION, timeout_s=NETWORK_S)
        return judge_reach(ReachFacts.model_validate_json(answer))
    except (ParisError, ValueError) as error:
        return [unknown("network", str(error)[:300])]


_LINE_WORDS = f"at most {MOST_BYTES >> 20} MiB each way, and {MOST_S:.0f} s"


async def _look_at_run(
    settings: PeerSettings, invite: Invite, looked: Looked, trial_s: float, say: Telling
) -> None:
    try:
        async with asyncio.timeout(NETWORK_S) as limit, looking_at_run(settings, invite) as look:
            facts, up = await _seen_of_run(look, settings, looked, say)
            if facts is None:
                return
            limit.reschedule(None)  # a trial has its own
            say(f"training an expert and the router on trial, {trial_s:g} s each")
            speeds = await try_slots(facts, settings, trial_s=trial_s)
    except TimeoutError:
        looked.findings.append(unknown("network", f"it took more than {NETWORK_S:.0f} s"))
        return
    except SwarmError as error:
        looked.findings.append(_no_network(error))
        return
    looked.slots = slot_outlooks(facts, settings, speeds, up)
    free = free_bytes(settings.data_dir)
    looked.findings += judge_run(facts, looked.slots, free, settings)


async def _seen_of_run(
    look: RunLook, settings: PeerSettings, looked: Looked, say: Telling
) -> tuple[RunFacts | None, float | None]:
    """Looks at line, twin and versions; returns what is known of the run, and the upload rate."""
    node, data_dir = look.node, settings.data_dir
    if look.onlooker.looks_as != "itself" and has_node(data_dir):
        looked.findings += _line_of_running_peer(data_dir, say)
        rates = [one.numbers.get("bytes_per_s") for one in looked.findings if one.check == "upload"]
        up = rates[0] if rates else None
    else:
        say(f"looking at the line with the run's peers: {_LINE_WORDS}")
        reach = await look_at_line(look.host.swarm, look.line_run(), announced=settings.announce)
        looked.findings += judge_reach(reach)
        up = reach.up_bytes_per_s
    if node is None:
        looked.findings.append(
            Finding(check="run", verdict="note", found=f"its slots were not looked at: {look.why_not}")
        )
        return None, up
    if (twin := await look.twin()) is not None:
        looked.findings.append(judge_twin(twin.what, twin.issued_s))
    owner = node.signed_spec.owner_node
    looked.findings.append(judge_versions(compare_versions(own_version(), node.versions, owner)))
    return run_facts(node, time.time()), up


def _no_network(error: SwarmError) -> Finding:
    if isinstance(error, ClockError):
        return Finding(
            check="clock-of-peers", verdict="cannot", found=str(error), mend="timedatectl set-ntp true"
        )
    if isinstance(error, PortInUseError):
        return Finding(check="port", verdict="cannot", found=str(error), mend="choose another --port")
    mend = "ask the run's owner for a newer invite, and look at this machine's firewall"
    if not isinstance(error, UnreachableError):
        mend = "reinstall paris-p2p in a new virtual environment: p2pd comes with hivemind"
    return Finding(check="peers", verdict="cannot", found=str(error), mend=mend)
