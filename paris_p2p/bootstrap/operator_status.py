"""What a bootstrap node says of itself: `paris-bootstrap status`, its metrics, and who is told of trouble."""

from __future__ import annotations

import time
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from paris_p2p import __version__
from paris_p2p.byte_size import in_units
from paris_p2p.monitoring.alarm_watch import Sight
from paris_p2p.monitoring.alarm_words import run_name
from paris_p2p.monitoring.families import Families
from paris_p2p.monitoring.peer_families import RunFigures, add_node, add_run, run_label
from paris_p2p.monitoring.sights import node_sight, watched_run
from paris_p2p.node.host import Host
from paris_p2p.node.node_figures import NodeFigures, node_figures
from paris_p2p.node.run_node import RunNode
from paris_p2p.node.status import SlotStatus, slot_status
from paris_p2p.shown import FIELD_LETTERS, shown


class HeldRun(BaseModel):
    """A run that a bootstrap node mirrors; its slots are told where the operator named it."""

    model_config = ConfigDict(frozen=True)

    run: str
    name: str
    owner: str
    named: bool  # in --mirror: strangers bring the others
    tips: int  # slots that have one
    paused: bool = False
    ended: bool = False
    checkpoint_s: float = 0.0
    claim_s: float = 0.0
    slots: tuple[SlotStatus, ...] = ()


class OperatorStatus(NodeFigures):
    """A bootstrap node as its operator sees it."""

    at: float
    peer_id: str
    version: str
    addresses: tuple[str, ...]
    runs: tuple[HeldRun, ...]
    private_runs: int = 0  # that it stores for, sealed


async def operator_status(
    host: Host, runs: Sequence[RunNode], named: frozenset[str], private_runs: int
) -> OperatorStatus:
    """Returns what a bootstrap node holds and does now."""
    now_s = time.time()
    return OperatorStatus(
        at=now_s,
        peer_id=host.identity.peer_id,
        version=__version__,
        addresses=host.swarm.addresses(),
        runs=tuple(_held(run, now_s, named=run.run in named) for run in runs),
        private_runs=private_runs,
        **await node_figures(host),
    )


def _held(node: RunNode, now_s: float, *, named: bool) -> HeldRun:
    spec, state = node.spec, node.state
    return HeldRun(
        run=node.run,
        name=spec.name,
        owner=node.owner,
        named=named,
        tips=sum(node.board.tip(slot) is not None for slot in spec.slots),
        paused=state.paused is not None,
        ended=state.ended is not None,
        checkpoint_s=spec.timing.checkpoint_s,
        claim_s=spec.timing.claim_s,
        slots=tuple(slot_status(node, slot, now_s) for slot in spec.slots) if named else (),
    )


def operator_families(status: OperatorStatus) -> Families:
    """Returns a bootstrap node's metrics. Runs that the operator named have labels of their own; those that
    strangers bring, and private ones, are counted alone.
    """
    families = Families()
    families.add("paris_node_info", 1, version=status.version, role="bootstrap")
    for kind, count in (
        ("named", sum(run.named for run in status.runs)),
        ("brought", sum(not run.named for run in status.runs)),
        ("private", status.private_runs),
    ):
        families.add("paris_held_runs", count, kind=kind)
    families.add("paris_held_tips", sum(run.tips for run in status.runs))
    for run in status.runs:
        if run.named:
            add_run(families, _figures(run), run.slots, status.at)
    add_node(families, status, named=True)
    return families


def operator_sight(status: OperatorStatus, *, names_told: bool) -> Sight:
    """Returns what is watched for trouble: the disk, and the runs that the operator named."""
    named = [run for run in status.runs if run.named]
    runs = [watched_run(run.run, _figures(run), run.claim_s, run.slots, status.at) for run in named]
    names = {run.run: run_name(run.run, run.name, private=False, names_told=names_told) for run in named}
    return node_sight(status, runs, names)


def _figures(run: HeldRun) -> RunFigures:
    label = run_label(run.run, private=False)
    return RunFigures(label, run.name, run.paused, run.ended, run.checkpoint_s)


def operator_lines(status: OperatorStatus) -> list[str]:
    """Says a status in lines for a person."""
    relayed = sum(peer.path != "direct" for peer in status.peers)
    cap = f" of {in_units(status.disk_limit_bytes)}" if status.disk_limit_bytes else ""
    lines = [
        f"bootstrap node {status.peer_id}, version {status.version}",
        *(f"  {address}" for address in status.addresses),
        f"{len(status.peers)} peers ({relayed} relayed)  up {in_units(status.uploaded_bytes)} "
        f"({in_units(status.upload_bytes_per_s)}/s)  down {in_units(status.downloaded_bytes)} "
        f"({in_units(status.download_bytes_per_s)}/s)",
        f"disk {in_units(status.disk_bytes)}{cap}, {in_units(status.disk_free_bytes)} free  "
        f"memory {in_units(status.memory_bytes)}",
        f"{len(status.runs)} runs mirrored, {status.private_runs} private ones stored for",
    ]
    for run in status.runs:
        state = ", ended" if run.ended else ", paused" if run.paused else ""
        lines.append(
            f"  {run.run[:16]}… {shown(run.name, FIELD_LETTERS)}: {run.tips} slots with a tip{state}"
            + (" (named by you)" if run.named else "")
        )
    lines += [status.network_trouble] if status.network_trouble else []
    if status.refused_by_network:
        count = sum(status.refused_by_network.values())
        lines.append(f"refused {count} records and requests of others")
    return lines
