"""Puts the comparison into words and tables: what was compared, what came out, and how it was made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.ddm_vs_monolith.compare import TITLES, Comparison, Hypothesis, Judged, Side, name_of
from bench.ddm_vs_monolith.jobs import ROUTER_SLOT, chosen, graph, guidance_trials, slots, trials
from bench.ddm_vs_monolith.results import RECORDED, Result
from bench.ddm_vs_monolith.settings import Arm, Sampling
from paris_p2p.errors import UsageError
from paris_p2p.score.intervals import Interval, Score
from paris_p2p.score.page import Table, number

HEADLINE = (("experts", "top-1"), ("monolith", "one"))
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Findings:
    """Holds everything computed once, for both forms of the report."""

    comparison: Comparison

    @cached_property
    def rows(self) -> list[Sampling]:
        rows = self.comparison.done()
        missing = [
            f"{arm}, {name}"
            for arm, name in HEADLINE
            if (arm, name) not in {(row.arm, row.name) for row in rows}
        ]
        if missing:
            raise UsageError(
                f"{' and '.join(missing)} is not sampled yet; run `python -m bench.ddm_vs_monolith run` first"
            )
        return rows

    @cached_property
    def sides(self) -> dict[str, Side]:
        return {name_of(row): self.comparison.side(row) for row in self.rows}

    @cached_property
    def judged(self) -> dict[str, Judged]:
        """Returns the numbers by name, the codec alone first."""
        coded = self.comparison.coded
        return {
            coded.name: self.comparison.judge(coded),
            **{name: self.comparison.judge(side) for name, side in self.sides.items()},
        }

    @cached_property
    def hypothesis(self) -> Hypothesis:
        experts, monolith = (self.sides[f"{arm}, {name}"] for arm, name in HEADLINE)
        return self.comparison.hypothesis(experts, monolith)

    def best(self, row: Sampling) -> Side:
        """Returns the experts, routed top-1, of the seeds that a sampling has."""
        scale = self.comparison.scale
        return self.comparison.side(scale.sampling(*HEADLINE[0]), scale.seeds_of(row))

    def plans(self) -> dict[str, dict[str, Any]]:
        """Returns what each arm trained, by its name."""
        seed = self.comparison.scale.rng_seeds[0]
        done = {arm.name: f"networks/{arm.name}/{seed}" for arm in self.comparison.scale.arms}
        return {
            arm: self.comparison.results.values(job)["plan"]
            for arm, job in done.items()
            if self.comparison.results.has(job)
        }


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
    words = [
        f"The monolith's validation loss falls by {1 - losses[-1] / late:.1%} between two thirds of its "
        "steps and their end."
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
        words.append(
            "With as many clips as the small one the large monolith ends at "
            f"{curves['monolith-total-clips'][1][-1]:.4f}."
        )
    return tuple(words)


def arms_table(findings: Findings) -> Table:
    """Returns what each arm spent."""
    rows = []
    for arm, plan in findings.plans().items():
        router = f" + {plan['router_parameters']:,}" if plan["router_parameters"] else ""
        counts = f"{plan['experts']} x {plan['expert_parameters']:,}{router}"
        batch = f"{plan['batch_clips']}" + (
            f" (router {plan['router_batch_clips']})" if plan["router_batch_clips"] else ""
        )
        spent = (f"{plan['clips']:,}", f"{plan['flops'] / 1e12:.2f}", f"{plan['router_share']:.1%}")
        cells = (counts, _steps(findings, arm, plan["steps"]), batch, *spent)
        rows.append((arm, plan["title"], *cells, f"{_rate(findings, arm):g}"))
    columns = (
        "arm",
        "what",
        "parameters",
        "steps",
        "batch",
        "clips seen",
        "training TFLOP",
        "router's share",
        "learning rate",
    )
    note = (
        "FLOPs as torch counts them, forward and backward; clips seen by all experts together. "
        "Steps of each seed where they differ."
    )
    return Table("Arms", columns, tuple(rows), note, 2)


def _steps(findings: Findings, arm: str, planned: int) -> str:
    """Returns the steps that were made, seed by seed should they differ.

    A plan's may change, these do not.
    """
    results = findings.comparison.results
    jobs = [f"train/{arm}/{seed}/expert-0" for seed in findings.comparison.scale.rng_seeds]
    made = [int(results.values(job)["curve"][-1]["steps"]) for job in jobs if results.has(job)] or [planned]
    return " / ".join(f"{steps:,}" for steps in (made if len(set(made)) > 1 else made[:1]))


def samplings_table(findings: Findings) -> Table:
    rows = []
    for row in findings.rows:
        values = findings.comparison.values(row)[0]
        flops, seconds = f"{values['flops_per_clip'] / 1e9:.2f}", f"{values['seconds_per_clip']:.3f}"
        rows.append(
            (
                name_of(row),
                f"{values['guidance']:g}",
                f"{values['steps']}",
                f"{values['experts_per_step']:.2f}",
                flops,
                seconds,
            )
        )
    columns = ("sampling", "guidance", "steps", "experts a step", "inference GFLOP a clip", "s a clip")
    return Table("Samplings", columns, tuple(rows), "Of the first seed. Guided steps run each expert twice.")


def ratio_table(findings: Findings) -> Table:
    """Returns every sampling's distance over the experts', routed top-1."""
    comparison, networks, rows = findings.comparison, findings.comparison.scale.features, []
    for row in findings.rows:
        if (row.arm, row.name) != HEADLINE[0]:
            side, best = findings.sides[name_of(row)], findings.best(row)
            rows.append(
                (side.name, *(as_factor(comparison.ratio(network, side, best)) for network in networks))
            )
    columns = (
        "Fréchet distance, over that of the experts (top-1)",
        *(TITLES[network] for network in networks),
    )
    return Table(
        "Ratios",
        columns,
        tuple(rows),
        "Above 1: further from real clips than the experts. Raw distances, 95 % intervals.",
    )


def coded_table(findings: Findings) -> Table:
    """Has the same distances without the codec's share in them."""
    comparison, networks, rows = findings.comparison, findings.comparison.scale.features, []
    for row in findings.rows:
        side, cells = findings.sides[name_of(row)], list[str]()
        for network in networks:
            first = (row.arm, row.name) == HEADLINE[0]
            over = (
                "1"
                if first
                else as_factor(comparison.ratio(network, side, findings.best(row), comparison.coded))
            )
            cells += [with_interval(comparison.coded_distance(network, side)), over]
        rows.append((side.name, *cells))
    columns = (
        "sampling",
        *(word for network in networks for word in (f"Fréchet, {TITLES[network]}", "over the experts'")),
    )
    note = (
        "To the test clips encoded and decoded, which a perfect generator here would equal. "
        "Not in the protocol: added after round 2."
    )
    return Table("Distances to real clips through the codec", columns, tuple(rows), note)


def distance_table(findings: Findings) -> Table:
    """Has a row for each sampling: Fréchet and kernel distance and classifier accuracy on each network."""
    networks = findings.comparison.scale.features
    rows = []
    for name, judged in findings.judged.items():
        cells: list[str] = []
        for network in networks:
            frechet, kernel, classifier = judged.distances[network]
            cells += [
                f"{with_interval(frechet)}; floor {number(frechet.floor.value)}, "
                f"at its counts {number(frechet.matched)}"
            ]
            cells += [with_interval(kernel), with_interval(classifier.accuracy)]
        rows.append((name, *cells))
    columns = [
        f"{what}, {TITLES[network]}" for network in networks for what in ("Fréchet", "kernel", "classifier")
    ]
    clips = len(findings.comparison.sources)
    return Table(
        f"Distances, {clips} clips a side",
        ("sampling", *columns),
        tuple(rows),
        "Floor: halves of the real clips.",
    )


def value_tables(findings: Findings) -> Iterator[Table]:
    """Yields tables of means over clips, beside real clips."""
    for title, attribute in (("Prompt fidelity", "fidelity"), ("Motion, px/frame", "motion")):
        rows = []
        for name, judged in findings.judged.items():
            values = getattr(judged, attribute)
            if values is not None:
                rows.append(
                    (
                        name,
                        with_interval(values.generated),
                        with_interval(values.real),
                        with_interval(values.difference),
                    )
                )
        if rows:
            reference = "real clips through the codec" if attribute == "fidelity" else "real clips"
            yield Table(
                title,
                ("sampling", "generated", reference, "difference"),
                tuple(rows),
                "Means over clips with 95 % intervals.",
            )


def specialisation_table(findings: Findings) -> Table:
    rows = []
    comparison = findings.comparison
    for arm in comparison.scale.arms:
        job = f"networks/{arm.name}/{comparison.scale.rng_seeds[0]}"
        if comparison.results.has(job):
            losses = comparison.results.values(job)["losses"]
            rows += [(arm.name, f"{k}", *(f"{loss:.4f}" for loss in row)) for k, row in enumerate(losses)]
    columns = ("arm", "expert", *(f"cluster {k}" for k in range(comparison.scale.experts)))
    return Table("Held-out loss of each network on each cluster", columns, tuple(rows))


def router_table(findings: Findings) -> Table:
    comparison = findings.comparison
    job = f"networks/experts/{comparison.scale.rng_seeds[0]}"
    if not comparison.results.has(job):
        return Table("Router", ("sees",), ())
    values = comparison.results.values(job)["router"]
    columns = ("sees", *(f"t = {t:g}" for t in values["times"]), "calibration error")
    seen = {name: values[name] for name in ("both", "latent", "text")}
    rows = [
        (name, *(f"{a:.3f}" for a in row["accuracy"]), f"{row['calibration_error']:.3f}")
        for name, row in seen.items()
    ]
    return Table("Router: share right on validation clips", columns, tuple(rows))


def trials_table(findings: Findings) -> Table:
    """Returns every trial of every arm; a star marks the chosen one."""
    comparison = findings.comparison
    rows = []
    for arm in comparison.scale.arms:
        tried = {
            "learning rate": trials(comparison.scale, arm.name),
            "guidance": guidance_trials(comparison.scale, arm.name),
        }
        for what, names in tried.items():
            if all(comparison.results.has(job) for job in names.values()):
                losses = {
                    setting: float(comparison.results.values(job)["loss"]) for setting, job in names.items()
                }
                taken = chosen(names, lambda job: float(comparison.results.values(job)["loss"]))
                said = ", ".join(
                    f"{setting:g}: {loss:.4f}{' *' if setting == taken else ''}"
                    for setting, loss in losses.items()
                )
                rows.append((arm.name, what, said))
    note = (
        "Learning rates by validation loss of a short run, "
        "guidance by the mean logarithm of the Fréchet distances on validation clips."
    )
    return Table(
        "Trials on the validation split", ("arm", "of", "loss (* chosen)"), tuple(rows), note, text_columns=3
    )


def arm_curve(findings: Findings, arm: str) -> tuple[Floats, Floats]:
    """Returns (clips seen by all experts, validation loss): a cluster by its own expert, or by random
    parts' mean.
    """
    comparison = findings.comparison
    seed, of = comparison.scale.rng_seeds[0], comparison.scale.arm(arm)
    done = [
        comparison.results.values(f"train/{arm}/{seed}/{slot}")
        for slot in slots(comparison.scale, of)
        if slot != ROUTER_SLOT
    ]
    shares = np.array(done[0]["shares"])
    losses = np.array([[row["loss"] for row in one["curve"]] for one in done])  # expert, point, cluster
    clips = np.array([row["clips"] for row in done[0]["curve"]], dtype=np.float64) * len(done)
    return clips, _by_own(of, losses) @ shares


def _by_own(arm: Arm, losses: Floats) -> Floats:
    if arm.partition == "clusters":
        return np.stack([losses[k, :, k] for k in range(losses.shape[2])], axis=1)
    return np.asarray(losses.mean(0))


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


def _rate(findings: Findings, arm: str) -> float:
    comparison = findings.comparison
    return float(
        comparison.results.values(f"train/{arm}/{comparison.scale.rng_seeds[0]}/expert-0")["learning_rate"]
    )


def with_interval(value: Interval | Score) -> str:
    return f"{number(value.value)} ({number(value.low)} to {number(value.high)})"


def as_factor(ratio: Interval) -> str:
    return f"{ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"
