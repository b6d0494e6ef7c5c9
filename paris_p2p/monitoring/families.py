"""Samples are gathered by metric and labels, as Prometheus wants them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
from prometheus_client.metrics_core import Metric

from paris_p2p.monitoring.metric_table import METRICS
from paris_p2p.node.tallies import Spells
from paris_p2p.shown import shown

LABEL_LETTERS = 64
MAX_REASONS_TOLD = 64  # of each kind: the largest; the rest is summed up
REST = "other reasons"
_FAMILIES: dict[str, Any] = {
    "gauge": GaugeMetricFamily,
    "counter": CounterMetricFamily,
    "summary": SummaryMetricFamily,
}


class Families:
    """Gathers samples; `metrics` lists what was gathered, each metric once."""

    def __init__(self) -> None:
        self._found: dict[str, Any] = {}

    def metrics(self) -> Iterator[Metric]:
        yield from self._found.values()

    def add(self, name: str, value: float | None, /, **labels: str) -> None:
        """Adds a sample of a gauge or a counter of METRICS; None adds none."""
        if value is not None:
            self._family(name).add_metric(_values(name, labels), float(value))

    def add_spells(self, name: str, spells: Spells) -> None:
        """Adds a summary of how long something took."""
        self._family(name).add_metric([], count_value=spells.count, sum_value=spells.total_s)

    def add_reasons(self, what: str, counts: Mapping[str, int], *, named: bool) -> None:
        """Adds refusals by reason. Strangers can make neither more labels nor longer ones: the rarest are
        summed up, and all of them where they are not to be `named`.
        """
        bounded = {} if named else {"any": sum(counts.values())}
        for reason, count in sorted(counts.items(), key=lambda one: -one[1]) if named else ():
            label = shown(reason, LABEL_LETTERS) if len(bounded) < MAX_REASONS_TOLD else REST
            bounded[label] = bounded.get(label, 0) + count
        for label, count in bounded.items():
            self.add("paris_refused", count, what=what, reason=label)

    def _family(self, name: str) -> Any:
        kind = METRICS[name]
        if name not in self._found:
            self._found[name] = _FAMILIES[kind.kind](name, kind.help, labels=kind.labels)
        return self._found[name]


def _values(name: str, labels: Mapping[str, str]) -> list[str]:
    """Returns the values of a metric's labels in their order, safe to show."""
    return [shown(labels[label], LABEL_LETTERS) for label in METRICS[name].labels]
