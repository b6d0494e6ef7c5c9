"""What p2pd measures of itself, beside ours: bounded, and under names that do not meet those of this process.

libp2p's names stay as they are, so that its own dashboards work.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from paris_p2p.monitoring.families import LABEL_LETTERS
from paris_p2p.shown import shown

KEPT_NAMES = "libp2p_"
RENAMED = ("process_", "go_goroutines", "go_threads", "go_memstats_alloc_bytes", "go_memstats_sys_bytes")
LEFT_OUT = ("libp2p_rcmgr_previous_", "libp2p_eventbus_")
PREFIX = "p2pd_"
MAX_SAMPLES = 1000
MAX_LABELS = 12


def daemon_families(text: str) -> Iterator[Metric]:
    """Yields the families of p2pd's own text that are told on, MAX_SAMPLES samples at most.

    Text that is not Prometheus's ends them: what came before is good.
    """
    left = MAX_SAMPLES
    try:
        for family in text_string_to_metric_families(text):
            name = _new_name(family.name)
            if not name or not left:
                continue
            kept = Metric(name, family.documentation, family.type)
            told = [_renamed(sample, family.name, name) for sample in family.samples[:left]]
            # labels that were cut may be alike now, and Prometheus takes no series twice
            alike = {(sample.name, *sorted(sample.labels.items())): sample for sample in told}
            kept.samples = list(alike.values())
            left -= len(kept.samples)
            yield kept
    except (ValueError, KeyError, IndexError):
        return


def _new_name(name: str) -> str:
    if name.startswith(KEPT_NAMES) and not name.startswith(LEFT_OUT):
        return name
    return PREFIX + name if name.startswith(RENAMED) else ""


def _renamed(sample: Sample, before: str, name: str) -> Sample:
    labels = dict(list(sample.labels.items())[:MAX_LABELS])
    told = {label: shown(value, LABEL_LETTERS) for label, value in labels.items()}
    return Sample(name + sample.name.removeprefix(before), told, sample.value)
