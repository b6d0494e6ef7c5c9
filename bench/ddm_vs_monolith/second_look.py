"""Has tables of what was looked at after the rounds' results were known: the worlds' mix, kernel distances.

The protocol of the rounds so far asks for none of it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bench.ddm_vs_monolith.compare import TITLES, Comparison, Side, name_of
from bench.ddm_vs_monolith.findings import HEADLINE, Findings, as_factor, with_interval
from bench.ddm_vs_monolith.settings import ROUND_3
from bench.ddm_vs_monolith.worlds import Worlds
from paris_p2p.score.distances import kernel_statistic
from paris_p2p.score.intervals import Interval, Rows
from paris_p2p.score.page import Table, number


def worlds_table(findings: Findings) -> Table:
    """Returns the worlds that each sampling of all seeds shows, and its distances with their mix put right.

    It has no rows where the clips are of one world.
    """
    worlds, networks = Worlds(findings.comparison), findings.comparison.scale.features
    columns = (
        "sampling",
        f"shows {', '.join(worlds.names)}",
        "the world asked for",
        *(
            word
            for network in networks
            for word in (
                f"{TITLES[network]}: Fréchet, mix put right",
                "over the experts'",
                "kernel, mix put right",
            )
        ),
    )
    coded, rows = findings.comparison.coded, list[tuple[str, ...]]()
    if worlds.names:
        rows.append(
            (coded.name, _mix(worlds, coded), f"{worlds.asked(coded):.2f}", *([""] * 3 * len(networks)))
        )
        rows += [
            (name_of(row), *_world_cells(findings, worlds, name_of(row)))
            for row in findings.rows
            if not row.first_seed
        ]
    note = (
        f"Worlds by a probe fitted on train clips through the codec; the test clips' own mix: "
        f"{_shares(worlds.true_mix) if worlds.names else ''}. For distances clips are weighted so that "
        "their worlds have that mix. Over the experts' (top-1), whose mix is put right too. "
        "Not in the protocol: added after round 3."
    )
    return Table("Worlds shown, and distances with their mix put right", columns, tuple(rows), note)


def _world_cells(findings: Findings, worlds: Worlds, name: str) -> Iterator[str]:
    side, best = findings.sides[name], findings.sides[", ".join(HEADLINE[0])]
    yield _mix(worlds, side)
    yield f"{worlds.asked(side):.2f}"
    for network in findings.comparison.scale.features:
        frechet, kernel = worlds.distances(network, side)
        yield number(frechet)
        yield "1" if side is best else as_factor(worlds.ratio(network, side, best))
        yield number(kernel)


def _mix(worlds: Worlds, side: Side) -> str:
    return _shares(worlds.mix(side))


def _shares(shares: object) -> str:
    return ", ".join(f"{share:.2f}" for share in np.asarray(shares))


def kernel_table(findings: Findings) -> Table:
    """Returns how much further the monolith is than the experts by the kernel distance, as they are
    sampled.
    """
    comparison = findings.comparison
    monolith = findings.sides[", ".join(HEADLINE[1])]
    asked = [row for row in findings.rows if (row.arm, row.name) == HEADLINE[0] or row in ROUND_3]
    asked = [row for row in asked if not row.first_seed]
    rows = tuple(
        (
            name_of(row),
            *(
                with_interval(kernel_gap(comparison, network, monolith, findings.sides[name_of(row)]))
                for network in comparison.scale.features
            ),
        )
        for row in asked
    )
    columns = ("experts sampled", *(TITLES[network] for network in comparison.scale.features))
    note = (
        "Unbiased, on the same components as the Fréchet distances. Above 0: the monolith is further. "
        "Not in the protocol: added after round 3."
    )
    return Table("Kernel distance, monolith minus experts", columns, rows, note)


def kernel_gap(comparison: Comparison, network: str, worse: Side, better: Side) -> Interval:
    """Returns how much further from the real clips `worse` is than `better` by the kernel distance."""
    real = comparison.real.features[network]
    far, near = (kernel_statistic(np.concatenate([real, side.features[network]])) for side in (worse, better))

    def statistic(rows: Rows) -> float:
        seen, made = rows % len(real), rows + len(real)
        return far(seen, made) - near(seen, made)

    return comparison.paired(statistic, better)


def floor_words(findings: Findings) -> Iterator[str]:
    """Yields, for each network, whether distance and classifier tell the two arms from real clips."""
    coded = findings.judged[findings.comparison.coded.name]
    experts, monolith = (findings.judged[", ".join(pair)] for pair in HEADLINE)
    for network, title in ((name, TITLES[name]) for name in findings.comparison.scale.features):
        pair = [judged.distances[network] for judged in (experts, monolith)]
        floor = pair[0][0].floor
        matched = " and ".join(number(frechet.matched) for frechet, _, _ in pair)
        kernels = " and ".join(number(kernel.value) for _, kernel, _ in pair)
        right = " and ".join(f"{test.accuracy.value:.2f}" for _, _, test in pair)
        areas = " and ".join(f"{test.auc.value:.2f}" for _, _, test in pair)
        own = coded.distances[network][2]
        yield (
            f"{title}, experts and monolith: Fréchet {matched} with {floor.clips} clips a side, where halves "
            f"of the real clips are at {number(floor.value)} ({number(floor.low)} to {number(floor.high)}); "
            f"kernel distance {kernels}; a linear classifier is right for {right} of clips (AUC {areas}), "
            f"and for {own.accuracy.value:.3f} (AUC {own.auc.value:.2f}) of real ones through the codec."
        )
