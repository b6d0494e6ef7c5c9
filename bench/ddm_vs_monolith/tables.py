"""Puts the comparison into tables: what was compared, what it cost, and what came out."""

from __future__ import annotations

from collections.abc import Iterator

from bench.ddm_vs_monolith.compare import TITLES, name_of
from bench.ddm_vs_monolith.findings import HEADLINE, Findings, as_factor, with_interval
from bench.ddm_vs_monolith.jobs import chosen, guidance_trials, trials
from paris_p2p.score.page import Table, number


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
    note = (
        "An expert's loss on its own cluster is one of being told the cluster, which samples are not: "
        "the loss through the router has a table of its own where it was measured."
    )
    return Table("Held-out loss of each network on each cluster", columns, tuple(rows), note)


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


def _rate(findings: Findings, arm: str) -> float:
    comparison = findings.comparison
    return float(
        comparison.results.values(f"train/{arm}/{comparison.scale.rng_seeds[0]}/expert-0")["learning_rate"]
    )
