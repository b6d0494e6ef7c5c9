"""What a look at the network means: whether others reach this machine, through what, and how fast."""

from __future__ import annotations

import ipaddress
import socket
import statistics
from collections.abc import Iterable, Sequence
from typing import Literal

import psutil
from pydantic import BaseModel, ConfigDict

from paris_p2p.byte_size import in_units
from paris_p2p.doctor.finding import Finding
from paris_p2p.doctor.time_servers import judge_offset

Nat = Literal["none", "cone", "symmetric", "unknown"]
# A checkpoint of a small expert in two minutes.
WANTED_BYTES_PER_S = 500_000.0
_SIX_OUT = ("2001:4860:4860::8888", 53)  # a route is looked up; nothing is sent


class SeenAt(BaseModel):
    """How one peer sees this machine: the IP address and port that it is connected from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    peer: str
    ip: str
    port: int
    protocol: str = "tcp"


class ReachFacts(BaseModel):
    """What p2pd and the peers told; rates in bytes a second, None where nobody would take part.

    `dialled` holds, by protocol, what each peer that dialled back said; `refusals` why others did not.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    ports: dict[str, int] = {}
    sightings: tuple[SeenAt, ...] = ()
    own_ips: frozenset[str] = frozenset()
    dialled: dict[str, tuple[bool, ...]] = {}
    dialled_globally: bool = False  # a peer that did sees this machine at a public address
    refusals: tuple[str, ...] = ()
    direct: int = 0
    relayed: int = 0
    reserved_relays: int = 0  # relays under which this machine can be reached
    six_out: bool = False
    clock_offsets_s: tuple[float, ...] = ()
    up_bytes_per_s: float | None = None
    down_bytes_per_s: float | None = None
    line_notes: tuple[str, ...] = ()  # why a rate was not measured


def own_ips() -> frozenset[str]:
    """Returns the IP addresses of this machine's interfaces."""
    found = (address for each in psutil.net_if_addrs().values() for address in each)
    kinds = (socket.AF_INET, socket.AF_INET6)
    return frozenset(one.address.partition("%")[0] for one in found if one.family in kinds)


def has_six_out() -> bool:
    """Tells whether this machine has a way out over IPv6; it sends nothing."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as trial:
            trial.connect(_SIX_OUT)
            return ipaddress.ip_address(trial.getsockname()[0].partition("%")[0]).is_global
    except (OSError, ValueError):
        return False


def nat_of(facts: ReachFacts) -> Nat:
    """Returns the kind of address translation, by how several peers see one port of this machine.

    `cone`: all see the same outer port, so that holes can be punched; `symmetric`: each sees another.
    """
    seen = [one for one in facts.sightings if one.protocol == "tcp"] or list(facts.sightings)
    if not seen:
        return "unknown"
    if all(one.ip in facts.own_ips for one in seen):
        return "none"
    outer = [one for one in seen if one.ip not in facts.own_ips]
    if len({one.peer for one in outer}) < 2:
        return "unknown"
    return "cone" if len({(one.ip, one.port) for one in outer}) == 1 else "symmetric"


def judge_reach(facts: ReachFacts) -> list[Finding]:
    """Returns what the look at the network means for taking part."""
    findings = [_judge_peers(facts), _judge_port(facts), _judge_nat(facts), _judge_six(facts)]
    if facts.clock_offsets_s:
        by = _peers(len(facts.clock_offsets_s))
        findings.append(judge_offset("clock-of-peers", statistics.median(facts.clock_offsets_s), by))
    return [*findings, *_judge_line(facts)]


def _judge_peers(facts: ReachFacts) -> Finding:
    count = facts.direct + facts.relayed
    return Finding(
        check="peers",
        verdict="good" if facts.direct else "poor" if count else "cannot",
        found=f"{count} connected, {facts.relayed} of them only through a relay",
        wanted="one at least without a relay, through which blobs are slow",
        mend=""
        if facts.direct
        else "see the port below"
        if count
        else "ask for a newer invite, and look at this machine's firewall",
        numbers={"direct": float(facts.direct), "relayed": float(facts.relayed)},
    )


def _judge_port(facts: ReachFacts) -> Finding:
    port = facts.ports.get("tcp", 0)
    wanted = "others can dial this machine: then it serves those who cannot be dialled, too"
    named = f"TCP and UDP port {port}"
    tells = {name: any(told) for name, told in facts.dialled.items() if told}
    numbers = {f"dialled_{name}": float(len(told)) for name, told in facts.dialled.items()}
    if not tells:
        why = f": {facts.refusals[0]}" if facts.refusals else ""
        found = f"nobody answered when asked to dial back at {named}{why}"
        return Finding(check="port", verdict="unknown", found=found, wanted=wanted, numbers=numbers)
    reached = [name.upper() for name, told in tells.items() if told]
    missed = [name.upper() for name, told in tells.items() if not told]
    asked = max(len(told) for told in facts.dialled.values())
    where = "" if facts.dialled_globally else ", seen from this network alone"
    if reached:
        found = f"reached at port {port} over {' and '.join(reached)} by {_peers(asked)}{where}"
        found += f", not over {' and '.join(missed)}" if missed else ""
        return Finding(
            check="port",
            verdict="note" if missed else "good",
            found=found,
            wanted=wanted,
            mend=f"let {' and '.join(missed)} port {port} through as well" if missed else "",
            numbers=numbers,
        )
    relay = "or --relay ADDRESS of a bootstrap node"
    return Finding(
        check="port",
        verdict="poor" if not facts.reserved_relays else "note",
        found=f"{_peers(asked)} dialled {named}, and nobody got through{where}",
        wanted=wanted,
        mend=f"let the port through the firewall and forward it in the router (--port 31337); {relay}",
        numbers=numbers,
    )


def _judge_nat(facts: ReachFacts) -> Finding:
    words: dict[Nat, str] = {
        "none": "no address translation: peers see an address of this machine",
        "cone": "behind NAT that gives one outer port to all: holes can be punched",
        "symmetric": "behind NAT with another outer port for each peer: holes are rarely punched",
        "unknown": "not known: too few peers told at what address they see this machine",
    }
    nat = nat_of(facts)
    relays = facts.reserved_relays
    through = f"; reached through {relays} relay{'s' * (relays != 1)}" if relays else ""
    reached = any(any(told) for told in facts.dialled.values())
    needs_relay = nat == "symmetric" and not relays and not reached
    return Finding(
        check="nat",
        verdict="poor" if needs_relay else "unknown" if nat == "unknown" else "good",
        found=words[nat] + through,
        wanted="none, or one outer port for all, or a relay",
        mend="start with --relay ADDRESS of a bootstrap node, or forward a port" if needs_relay else "",
        numbers={"sightings": float(len(facts.sightings)), "relays": float(relays)},
    )


def _judge_six(facts: ReachFacts) -> Finding:
    own = any(_is_global_six(ip) for ip in facts.own_ips)
    found = (
        "this machine has a public address, and a way out"
        if own and facts.six_out
        else "an address without a way out"
        if own
        else "none"
    )
    return Finding(
        check="ipv6",
        verdict="good" if own and facts.six_out else "note",
        found=found,
        wanted="welcome, not needed: no NAT stands in its way; listen to it with --host ::",
    )


def _judge_line(facts: ReachFacts) -> list[Finding]:
    rates = (("upload", facts.up_bytes_per_s), ("download", facts.down_bytes_per_s))
    return [_judge_rate(way, rate, facts.line_notes) for way, rate in rates]


def _judge_rate(way: str, rate: float | None, notes: Sequence[str]) -> Finding:
    wanted = f"{in_units(WANTED_BYTES_PER_S)}/s to and from the run's peers"
    if rate is None:
        why = next((note for note in notes if note.startswith(f"{way}: ")), "no peer took part")
        found = f"not measured: {why.removeprefix(f'{way}: ')}"
        return Finding(check=way, verdict="unknown", found=found, wanted=wanted)
    slow = rate < WANTED_BYTES_PER_S
    crew = "take part in a run with crews, which sends small updates, or with --no-train"
    return Finding(
        check=way,
        verdict="poor" if slow else "good",
        found=f"{in_units(rate)}/s with the run's peers",
        wanted=wanted,
        mend=("a line with more upload; or " + crew if way == "upload" else "a faster line") if slow else "",
        numbers={"bytes_per_s": rate},
    )


def _peers(count: int) -> str:
    return f"{count} peer{'s' * (count != 1)}"


def _is_global_six(ip: str) -> bool:
    try:
        parsed = ipaddress.ip_address(ip)
    except ValueError:
        return False
    return parsed.version == 6 and parsed.is_global


def is_global_ip(ip: str) -> bool:
    """Tells whether an IP address is one of the public network."""
    try:
        return ipaddress.ip_address(ip).is_global
    except ValueError:
        return False


def mean_rate(moved: Iterable[tuple[int, float]]) -> float | None:
    """Returns bytes a second over several (bytes, seconds); None where nothing moved."""
    pairs = list(moved)
    taken_s = sum(seconds for _, seconds in pairs)
    return sum(count for count, _ in pairs) / taken_s if taken_s > 0 else None
