"""Reports the comparison as one page (HTML) and as tables (markdown), from result files alone.

Legend: K clusters, S steps or times, N clips. t = 1 is noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.ddm_vs_monolith import tables, words
from bench.ddm_vs_monolith.compare import name_of
from bench.ddm_vs_monolith.findings import Findings, Floats, arm_curve
from bench.ddm_vs_monolith.rounds import round_3_table
from bench.ddm_vs_monolith.routed_losses import routed_table
from bench.ddm_vs_monolith.second_look import floor_words, kernel_table, worlds_table
from paris_p2p.flow.sampler import time_grid
from paris_p2p.score import figures
from paris_p2p.score.intervals import Score
from paris_p2p.score.page import ClipRow, ClipWall, Part, Report, Section, Table, looping, render, score_table

SHOWN_FPS = 8.0


def write_report(findings: Findings, folder: Path, command: str) -> tuple[Path, Path]:
    """Writes `<scale>.html` and `<scale>.md` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    scale = findings.comparison.scale.name
    page, text = folder / f"{scale}.html", folder / f"{scale}.md"
    ratios = ratio_tables(findings)
    page.write_text(render(html_report(findings, ratios, command)), encoding="utf-8")
    text.write_text(markdown(findings, ratios, command), encoding="utf-8")
    return page, text


@dataclass(frozen=True)
class RatioTables:
    """Holds the tables that take minutes to resample, made once for both forms."""

    raw: Table
    round_3: Table  # without rows where nothing was sampled for it
    coded: Table
    worlds: Table  # without rows where clips are of one world
    kernel: Table


def ratio_tables(findings: Findings) -> RatioTables:
    return RatioTables(
        tables.ratio_table(findings),
        round_3_table(findings),
        tables.coded_table(findings),
        worlds_table(findings),
        kernel_table(findings),
    )


def html_report(findings: Findings, ratios: RatioTables, command: str) -> Report:
    scale = findings.comparison.scale
    asked = _filled(ratios.raw, ratios.round_3)
    sections = (
        Section("What was compared", (), (tables.arms_table(findings), tables.samplings_table(findings))),
        Section("The question", tuple(words.hypothesis_words(findings.hypothesis)), asked),
        Section(
            "Distances",
            tuple(floor_words(findings)),
            (*distance_parts(findings), ratios.kernel, ratios.coded, *_filled(ratios.worlds)),
        ),
        Section("Fidelity and motion", words.fidelity_words(findings), tuple(tables.value_tables(findings))),
        Section(
            "Training",
            words.capacity_words(findings),
            (*curve_parts(findings), *_filled(routed_table(findings))),
        ),
        Section("Who denoises what", (), tuple(routing_parts(findings))),
        Section("Clips", (), (wall(findings),)),
        Section("Trials", (), (tables.trials_table(findings),)),
    )
    return Report(
        f"Experts against one model: {scale.name}",
        tuple(words.summary(findings)),
        sections,
        words.made(findings, command),
    )


def _filled(*made: Table) -> tuple[Table, ...]:
    return tuple(table for table in made if table.rows)


def distance_parts(findings: Findings) -> tuple[Part, ...]:
    """Returns a table of every sampling, and a drawing of the Fréchet distances."""
    scores = {
        name: [s for group in judged.distances.values() for s in _scores(group)]
        for name, judged in findings.judged.items()
    }
    frechet = {
        name: [group[0] for group in judged.distances.values()] for name, judged in findings.judged.items()
    }
    return figures.distances("Fréchet distances", frechet), score_table(
        "Distances to real test clips", scores
    )


def _scores(group: Any) -> tuple[Score, ...]:
    frechet, kernel, classifier = group
    return frechet, kernel, classifier.accuracy


def curve_parts(findings: Findings) -> Iterator[Part]:
    curves = [figures.Curve(arm, *arm_curve(findings, arm)) for arm in findings.plans()]
    yield figures.loss_curves(
        "Validation loss", curves, "clips seen by all experts together", "validation loss"
    )


def routing_parts(findings: Findings) -> Iterator[Part]:
    """Draws who denoises, how right and how sure the router is, and what each expert learned."""
    comparison = findings.comparison
    scale, seed = comparison.scale, comparison.scale.rng_seeds[0]
    names = [f"expert {k}" for k in range(scale.experts)]
    clusters = [f"cluster {k}" for k in range(scale.experts)]
    for row in findings.rows:
        if row.arm == "experts" and row.name in ("top-1", "full"):
            values = comparison.values(row)[0]
            times = np.array(time_grid(values["steps"])[:-1])
            yield figures.routing_over_time(
                f"Routing, {row.name}", times, np.array(values["routing"]), clusters, names
            )
    job = f"networks/experts/{seed}"
    if comparison.results.has(job):
        arrays, values = comparison.results.arrays(job), comparison.results.values(job)
        answers, true = arrays["answers.both"].astype(np.float64), arrays["clusters"]  # S N K, N
        yield from _router_parts(values["router"], answers, true, clusters)
    for arm in ("experts", "random"):
        job = f"networks/{arm}/{seed}"
        if comparison.results.has(job):
            losses = np.array(comparison.results.values(job)["losses"])
            yield figures.specialisation(
                f"Specialisation, {arm}: held-out loss of each on each cluster", losses, names, clusters
            )


def _router_parts(
    values: dict[str, Any], answers: Floats, true: Any, clusters: Sequence[str]
) -> Iterator[Part]:
    times = np.array(values["times"])
    curves = [
        figures.Curve(f"router sees {name}", times, np.array(values[name]["accuracy"]))
        for name in ("both", "latent", "text")
    ]
    yield figures.loss_curves("The router over denoising time", curves, "t (1 is noise)", "share right")
    first = answers.argmax(2)
    counts = np.zeros((len(clusters), len(clusters)), dtype=np.int64)
    np.add.at(counts, (np.broadcast_to(true, first.shape), first), 1)
    yield figures.confusion(f"The router's confusion, over {len(times)} times", counts, clusters)
    yield figures.calibration("The router's calibration", answers.max(2).ravel(), (first == true).ravel())


def shown_clips(findings: Findings) -> dict[str, Any]:
    """Returns clips of the same captions [N T H W 3] uint8: the real ones, then those of every arm."""
    comparison = findings.comparison
    seed, test = comparison.scale.rng_seeds[0], comparison.results.arrays("test")
    shown = [
        row
        for row in findings.rows
        if (row.arm, row.name) in tables.HEADLINE or row.arm in ("monolith-total", "random")
    ]
    pictures = {"real": test["real.pictures"], "real, through the codec": test["codec.pictures"]}
    return pictures | {
        name_of(row): comparison.results.arrays(f"sample/{row.arm}/{seed}/{row.name}")["pictures"]
        for row in shown
    }


def wall(findings: Findings) -> ClipWall:
    """Shows the same captions side by side."""
    comparison, pictures = findings.comparison, shown_clips(findings)
    fps = min(SHOWN_FPS, comparison.scale.fps)
    rows = tuple(
        ClipRow(
            caption,
            tuple(looping(clips[number_], fps, f"{name}: {caption}") for name, clips in pictures.items()),
        )
        for number_, caption in enumerate(comparison.test["captions"])
    )
    return ClipWall(
        "Clips chosen before any was made",
        tuple(pictures),
        rows,
        "One caption a row; the same noise, where generated.",
    )


def markdown(findings: Findings, ratios: RatioTables, command: str) -> str:
    """Returns the tables for docs/experiments.md."""
    said = (
        *words.summary(findings),
        *words.hypothesis_words(findings.hypothesis),
        *words.capacity_words(findings),
        *floor_words(findings),
    )
    parts = [f"# {findings.comparison.scale.name}", *said]
    made = (
        tables.arms_table(findings),
        tables.samplings_table(findings),
        ratios.raw,
        ratios.round_3,
        tables.distance_table(findings),
        ratios.kernel,
        ratios.coded,
        ratios.worlds,
        *tables.value_tables(findings),
        routed_table(findings),
        tables.specialisation_table(findings),
        tables.router_table(findings),
        tables.trials_table(findings),
    )
    parts += [_markdown_table(table) for table in _filled(*made)]
    parts.append("\n".join(f"- {name}: {value}" for name, value in words.made(findings, command)))
    return "\n\n".join(parts) + "\n"


def _markdown_table(table: Table) -> str:
    lines = [
        f"## {table.title}",
        "",
        "| " + " | ".join(table.columns) + " |",
        "|" + "---|" * len(table.columns),
    ]
    lines += ["| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in table.rows]
    return "\n".join(lines + (["", table.note] if table.note else []))
