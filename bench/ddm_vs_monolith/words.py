"""Puts the comparison into words: what came out, why the monolith is limited, and how it was made."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bench.ddm_vs_monolith.compare import TITLES, Comparison, Hypothesis
from bench.ddm_vs_monolith.findings import Findings, arm_curve, as_factor, with_interval
from bench.ddm_vs_monolith.jobs import graph
from bench.ddm_vs_monolith.results import RECORDED, Result
from paris_p2p.score.page import number


def summary(findings: Findings) -> list[str]:
    hypothesis = findings.hypothesis
    said = ", ".join(
        f"{as_factor(ratio)} on {TITLES[network]}" for network, ratio in hypothesis.ratios.items()
    )
    return [
        f"The monolith's Fréchet distance over the experts': {said}. The claim of 2.0 times: "
        f"{hypothesis.verdict}."
    ]


def hypothesis_words(hypothesis: Hypothesis) -> Iterator[str]:
    yield (
        "Asked in PROTOCOL.md, recorded before any test clip was looked at: "
        "is the monolith at least 2.0 times as far from real clips?"
    )
    if hypothesis.fidelity is not None:
        yield f"Prompt fidelity, experts minus monolith: {with_interval(hypothesis.fidelity)}."
    if hypothesis.motion is not None:
        yield (
            "Motion, how much nearer the experts are to the real clips', in pixels a frame: "
            f"{with_interval(hypothesis.motion)}."
        )
    yield (
        f"Verdict: {hypothesis.verdict}, from {hypothesis.seeds} training "
        f"seed{'s' if hypothesis.seeds > 1 else ''}."
    )


def fidelity_words(findings: Findings) -> tuple[str, ...]:
    named = ", ".join(
        f"{name} {number(probe.held_out.own.value)}" for name, probe in findings.comparison.probes.items()
    )
    return (
        "Attributes whose probe is above chance on train clips it was not fitted on, "
        f"with its agreement there: {named or 'none'}.",
    )


def capacity_words(findings: Findings) -> tuple[str, ...]:
    """Returns the protocol's two signs that the monolith is limited by what it can hold."""
    curves = {arm: arm_curve(findings, arm) for arm in findings.plans()}
    clips, losses = curves["monolith"]
    late = losses[int(np.searchsorted(clips, 2 / 3 * clips[-1]))]
    decay_share = findings.comparison.scale.decay_share
    undecayed = float(np.interp((1 - decay_share) * clips[-1], clips, losses))
    words = [
        f"The monolith's validation loss falls by {1 - losses[-1] / late:.1%} between two thirds of its "
        f"steps and their end; by {1 - losses[-1] / undecayed:.1%} in the last {decay_share:.0%} of them, "
        "in which its rate decays."
    ]
    if "monolith-total" in curves:
        seen, large = curves["monolith-total"]
        there = float(np.interp(seen[-1], clips, losses))
        words.append(
            f"After {seen[-1]:,.0f} clips the large monolith, whose rate has decayed by then, "
            f"is at {large[-1]:.4f}, "
            f"the small one at {there:.4f}; the small one ends at {losses[-1]:.4f}."
        )
    if "monolith-total-clips" in curves:
        large_end = curves["monolith-total-clips"][1][-1]
        words.append(
            f"With as many clips as the small one the large monolith ends at {large_end:.4f}, "
            f"{1 - large_end / losses[-1]:.1%} lower: size limits the small one."
        )
    return tuple(words)


def made(findings: Findings, command: str) -> tuple[tuple[str, str], ...]:
    """Returns command, commit, machine, date, protocol, and what the jobs took."""
    comparison = findings.comparison
    jobs = _all_results(comparison)
    recorded = RECORDED.read_text().strip() if RECORDED.exists() else ""
    protocols = sorted({job.protocol_sha256 for job in jobs if job.job.startswith(("test", "sample/"))})
    hours, longest = sum(job.cpu_s for job in jobs) / 3600, max(job.wall_s for job in jobs) / 60
    return (
        ("command", command),
        ("commit", ", ".join(sorted({job.commit for job in jobs}))),
        ("machine", ", ".join(sorted({job.machine for job in jobs}))),
        ("date", ", ".join(sorted({job.date for job in jobs}))),
        (
            "protocol",
            ", ".join(
                f"{name[:16]}…{'' if name == recorded else ' (not the one recorded now)'}"
                for name in protocols
            ),
        ),
        ("jobs", f"{len(jobs)}, {hours:.2f} processor hours, the longest {longest:.1f} min"),
    )


def _all_results(comparison: Comparison) -> list[Result]:
    return [
        comparison.results.read(job.name)
        for job in graph(comparison.scale)
        if comparison.results.has(job.name)
    ]
