"""A peer's Status as metrics: a slot is a label, a peer is none, so that strangers add no series."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from paris_p2p import __version__
from paris_p2p.monitoring.families import Families
from paris_p2p.node.node_figures import NodeFigures
from paris_p2p.node.status import SlotStatus, Status

PRIVATE = "private"
RUN_LETTERS = 12


class RunFigures(NamedTuple):
    """What metrics tell of a run beside its slots."""

    label: str
    name: str
    paused: bool
    ended: bool
    checkpoint_s: float


def run_label(run: str, *, private: bool) -> str:
    """Returns what metrics call a run: the start of its id, or nothing that names it."""
    return PRIVATE if private else run[:RUN_LETTERS]


def peer_families(status: Status) -> Families:
    """Returns a peer's metrics; those of a private run name neither the run nor a reason."""
    families, private = Families(), status.governance.private
    run = run_label(status.run, private=private)
    families.add("paris_node_info", 1, version=__version__, role=status.role)
    families.add("paris_phase", 1, run=run, phase=status.phase)
    governance = status.governance
    figures = RunFigures(
        run, "" if private else status.name, governance.paused, governance.ended, status.checkpoint_s
    )
    add_run(families, figures, status.slots, status.at)
    _add_training(families, run, status)
    families.add_reasons("card", status.refused_cards, named=not private)
    families.add("paris_attested", status.attested)
    add_node(families, status, named=not private)
    return families


def add_run(families: Families, run: RunFigures, slots: Iterable[SlotStatus], now_s: float) -> None:
    """Adds what is known of a run and its slots."""
    families.add("paris_run_info", 1, run=run.label, name=run.name)
    families.add("paris_run_paused", run.paused, run=run.label)
    families.add("paris_run_ended", run.ended, run=run.label)
    families.add("paris_checkpoint_interval_seconds", run.checkpoint_s, run=run.label)
    for slot in slots:
        _add_slot(families, run, slot, now_s)


def is_active(slot: SlotStatus, run: RunFigures, now_s: float) -> bool:
    """Tells whether the slot's training is due: it is not done, and neither rests nor is paused."""
    return not (slot.done or slot.rests_until_s > now_s or run.paused or run.ended)


def _add_slot(families: Families, run: RunFigures, slot: SlotStatus, now_s: float) -> None:
    where = {"run": run.label, "slot": slot.slot}
    has_tip = bool(slot.tip)
    families.add("paris_slot_steps", slot.steps, **where)
    families.add("paris_slot_clips", slot.clips, **where)
    families.add("paris_slot_tip_age_seconds", slot.tip_age_s, **where)
    families.add("paris_slot_gate_loss", slot.loss, **where)
    families.add("paris_slot_attestations", slot.attestations if has_tip else None, **where)
    families.add("paris_slot_pending_cards", slot.pending, **where)
    families.add("paris_slot_has_lead", bool(slot.lead), **where)
    families.add("paris_slot_active", is_active(slot, run, now_s), **where)
    families.add("paris_slot_rate_lowerings", slot.lowered, **where)


def _add_training(families: Families, run: str, status: Status) -> None:
    if (training := status.training) is not None:
        where = {"run": run, "slot": training.slot}
        families.add("paris_training_clips_per_second", training.clips_per_s, **where)
        families.add("paris_training_loss", training.loss, **where)
        families.add("paris_training_wait_ratio", training.wait_share, **where)
    families.add("paris_trainer_restarts", status.tallies.trainer_restarts)
    families.add_spells("paris_publish_seconds", status.tallies.publishing)
    families.add_spells("paris_check_seconds", status.tallies.checking)


def add_node(families: Families, node: NodeFigures, *, named: bool) -> None:
    """Adds the metrics that every node has; reasons are not `named` where they may tell of a private run."""
    families.add_reasons("network", node.refused_by_network, named=named)
    _add_traffic(families, node)
    _add_machine(families, node)


def _add_traffic(families: Families, status: NodeFigures) -> None:
    paths = Counter(peer.path for peer in status.peers)
    up, down = status.uploaded_bytes, status.downloaded_bytes
    up_relayed, down_relayed = status.uploaded_relayed_bytes, status.downloaded_relayed_bytes
    for path in ("direct", "relayed"):
        families.add("paris_connected_peers", paths[path], path=path)
    for direction, whole, relayed in (("up", up, up_relayed), ("down", down, down_relayed)):
        families.add("paris_blob_bytes", whole - relayed, direction=direction, path="direct")
        families.add("paris_blob_bytes", relayed, direction=direction, path="relayed")
    families.add("paris_blob_bytes_per_second", status.upload_bytes_per_s, direction="up")
    families.add("paris_blob_bytes_per_second", status.download_bytes_per_s, direction="down")


def _add_machine(families: Families, status: NodeFigures) -> None:
    families.add("paris_disk_used_bytes", status.disk_bytes)
    families.add("paris_disk_limit_bytes", status.disk_limit_bytes)
    families.add("paris_disk_free_bytes", status.disk_free_bytes)
    families.add("paris_memory_bytes", status.memory_bytes)
    families.add("paris_event_loop_stalls", status.loop.stalls)
    families.add("paris_event_loop_stalled_seconds", status.loop.stalled_s)
    families.add("paris_event_loop_longest_stall_seconds", status.loop.longest_s)
    families.add("paris_p2pd_restarts", status.daemon_restarts)
    families.add("paris_p2pd_answers", not status.network_trouble)
