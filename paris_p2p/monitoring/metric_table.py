"""Every metric of ours by name, with its kind and what it says; docs/monitoring.md has the same table."""

from __future__ import annotations

from typing import Literal, NamedTuple

Measure = Literal["gauge", "counter", "summary"]


class MetricKind(NamedTuple):
    """What a metric is: a counter's samples end in _total, a summary has _count and _sum."""

    kind: Measure
    help: str
    labels: tuple[str, ...] = ()


_SLOT = ("run", "slot")
METRICS: dict[str, MetricKind] = {
    "paris_node_info": MetricKind("gauge", "This program: 1.", ("version", "role")),
    "paris_run_info": MetricKind("gauge", "The run, without a name where it is private: 1.", ("run", "name")),
    "paris_phase": MetricKind("gauge", "What this node does now: 1.", ("run", "phase")),
    "paris_run_paused": MetricKind("gauge", "1 while the run's owner has it paused.", ("run",)),
    "paris_run_ended": MetricKind("gauge", "1 once the run's owner ended it.", ("run",)),
    "paris_checkpoint_interval_seconds": MetricKind("gauge", "The run's checkpoint interval.", ("run",)),
    "paris_slot_steps": MetricKind("gauge", "Optimizer steps of the slot's tip.", _SLOT),
    "paris_slot_clips": MetricKind("gauge", "Clips that the slot's tip was trained on.", _SLOT),
    "paris_slot_tip_age_seconds": MetricKind("gauge", "Age of the slot's tip; none without a tip.", _SLOT),
    "paris_slot_gate_loss": MetricKind("gauge", "Loss of the slot's tip, comparable over time.", _SLOT),
    "paris_slot_attestations": MetricKind("gauge", "Peers that attested the slot's tip.", _SLOT),
    "paris_slot_pending_cards": MetricKind("gauge", "Cards of the slot that wait to be attested.", _SLOT),
    "paris_slot_has_lead": MetricKind("gauge", "1 while a peer leads the slot.", _SLOT),
    "paris_slot_active": MetricKind("gauge", "1 while training is due: not done, resting or paused.", _SLOT),
    "paris_slot_rate_lowerings": MetricKind("gauge", "How often the learning rate was lowered.", _SLOT),
    "paris_training_clips_per_second": MetricKind("gauge", "Speed of this node's trainer.", _SLOT),
    "paris_training_loss": MetricKind("gauge", "Training loss of this node's trainer.", _SLOT),
    "paris_training_wait_ratio": MetricKind("gauge", "Share of a step spent waiting for data.", _SLOT),
    "paris_connected_peers": MetricKind("gauge", "Peers with a connection, by the best path.", ("path",)),
    "paris_blob_bytes": MetricKind("counter", "Bytes of blobs moved.", ("direction", "path")),
    "paris_blob_bytes_per_second": MetricKind("gauge", "Bytes moved, over five seconds.", ("direction",)),
    "paris_refused": MetricKind("counter", "What was refused.", ("what", "reason")),
    "paris_attested": MetricKind("counter", "Cards that this node attested."),
    "paris_disk_used_bytes": MetricKind("gauge", "Blobs on this disk."),
    "paris_disk_limit_bytes": MetricKind("gauge", "What blobs may take; 0: no limit."),
    "paris_disk_free_bytes": MetricKind("gauge", "Free on the disk that blobs lie on."),
    "paris_memory_bytes": MetricKind("gauge", "Resident memory of all processes of this node."),
    "paris_event_loop_stalls": MetricKind("counter", "Times that the event loop came late by 0.1 s or more."),
    "paris_event_loop_stalled_seconds": MetricKind("counter", "By how much it came late, in all."),
    "paris_event_loop_longest_stall_seconds": MetricKind("gauge", "By how much it came late at most."),
    "paris_trainer_restarts": MetricKind("counter", "Trainers of this node that died."),
    "paris_p2pd_restarts": MetricKind("counter", "Times that p2pd was started again."),
    "paris_p2pd_answers": MetricKind("gauge", "0 while p2pd does not say who is connected."),
    "paris_p2pd_up": MetricKind("gauge", "1 if p2pd told its own metrics."),
    "paris_publish_seconds": MetricKind("summary", "From telling of an own checkpoint until it is the tip."),
    "paris_check_seconds": MetricKind("summary", "Checking another's checkpoint at the gate."),
    "paris_held_runs": MetricKind("gauge", "Runs that a bootstrap node holds.", ("kind",)),
    "paris_held_tips": MetricKind("gauge", "Slots with a tip, in the runs it mirrors."),
}
