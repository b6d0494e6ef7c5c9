"""A status is read for trouble: what rules/alarms.py is given of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from paris_p2p.monitoring.alarm_watch import Sight
from paris_p2p.monitoring.alarm_words import RunName, run_name
from paris_p2p.monitoring.peer_families import RunFigures, is_active
from paris_p2p.node.node_figures import NodeFigures
from paris_p2p.node.status import SlotStatus, Status
from paris_p2p.rules.alarms import WatchedNode, WatchedRun, WatchedSlot


def watched_run(
    run: str, figures: RunFigures, claim_s: float, slots: Iterable[SlotStatus], now_s: float
) -> WatchedRun:
    """Returns a run as it is watched."""
    return WatchedRun(
        run=run,
        checkpoint_s=figures.checkpoint_s,
        claim_s=claim_s,
        ended=figures.ended,
        slots=tuple(
            WatchedSlot(
                slot=slot.slot,
                tip_age_s=slot.tip_age_s,
                has_lead=bool(slot.lead),
                active=is_active(slot, figures, now_s),
                done=slot.done,
            )
            for slot in slots
        ),
    )


def node_sight(node: NodeFigures, runs: Iterable[WatchedRun], names: Mapping[str, RunName]) -> Sight:
    """Returns what a node sees of its runs and its disk."""
    watched = WatchedNode(tuple(runs), node.disk_bytes, node.disk_limit_bytes, node.disk_free_bytes)
    return Sight(watched, names)


def peer_sight(status: Status, *, names_told: bool) -> Sight:
    """Returns what a peer sees of its run and its disk."""
    governance = status.governance
    name = run_name(status.run, status.name, private=governance.private, names_told=names_told)
    figures = RunFigures(name.label, name.name, governance.paused, governance.ended, status.checkpoint_s)
    run = watched_run(status.run, figures, status.claim_s, status.slots, status.at)
    return node_sight(status, [run], {status.run: name})
