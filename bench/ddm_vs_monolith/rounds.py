"""Asks the protocol's third question: the monolith against the same experts, sampled in other ways."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench.ddm_vs_monolith.compare import TITLES, name_of
from bench.ddm_vs_monolith.findings import HEADLINE, Findings, as_factor, with_interval
from bench.ddm_vs_monolith.settings import ROUND_3, Sampling
from paris_p2p.score.page import Table


def round_3_table(findings: Findings) -> Table:
    """Returns a row for each way and all seeds, and one without the first seed, whose results led to the
    question.
    """
    seeds = findings.comparison.scale.rng_seeds
    rows = []
    for row in findings.rows:
        if row in ROUND_3:
            rows.append((f"{name_of(row)}, all seeds", *_cells(findings, row, seeds)))
            if len(seeds) > 1:
                rows.append((f"{name_of(row)}, without the first seed", *_cells(findings, row, seeds[1:])))
    raw = [TITLES[network] for network in findings.comparison.scale.features]
    coded = [f"{title}, to real clips through the codec" for title in raw]
    columns = ("experts sampled", *raw, *coded, "fidelity", "motion, px/frame")
    note = (
        "Fréchet distance of the monolith over that of the experts: above 1, the monolith is further. "
        "Fidelity: experts minus monolith. "
        "Motion: how much nearer to the real clips' the experts are."
    )
    return Table("Round 3: the monolith over the experts", columns, tuple(rows), note)


def _cells(findings: Findings, row: Sampling, rng_seeds: Sequence[int]) -> Iterator[str]:
    comparison = findings.comparison
    experts, monolith = (
        comparison.side(row, rng_seeds),
        comparison.side(comparison.scale.sampling(*HEADLINE[1]), rng_seeds),
    )
    asked = comparison.hypothesis(experts, monolith)
    for network in comparison.scale.features:
        yield as_factor(asked.ratios[network])
    for network in comparison.scale.features:
        yield as_factor(comparison.ratio(network, monolith, experts, comparison.coded))
    for gain in (asked.fidelity, asked.motion):
        yield with_interval(gain) if gain is not None else ""
