"""Reads what `python -m bench.when_experts_win` is asked of the stages with the product's networks."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

from bench.when_experts_win.product_jobs import run_stage, tasks_of
from bench.when_experts_win.product_pictures import PICTURES, put_side_by_side
from bench.when_experts_win.product_place import Place, place_clusters
from bench.when_experts_win.product_report import Played, product_report
from bench.when_experts_win.product_stages import product_stage_of

SETS, WORK = Path("bench-out/sets"), Path("bench-out/when-experts-win")


def add_product_options(command: argparse.ArgumentParser) -> None:
    """Adds the options of a run that the stage digits does not need."""
    group = command.add_argument_group("of the stages images and clips")
    group.add_argument("--sets", type=Path, default=SETS, help="folder of the stages' sets")
    group.add_argument("--work", type=Path, default=WORK, help="weights and pictures; may be deleted")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:<n>")
    group.add_argument("--commit", default="", help="that results name, where there is no git")
    group.add_argument("--until-s", type=float, default=float("inf"), help="begin nothing after so long")


def _run(options: argparse.Namespace) -> int:
    stage, began_s, failed = product_stage_of(options.stage), time.monotonic(), 0
    for seeds in (
        [[seed] for seed in options.seeds or stage.seeds] if stage.set_each_seed else [options.seeds]
    ):
        folder = options.sets / stage.set_name(seeds[0] if seeds else 0)
        place = Place(stage.name, folder, options.results, options.work, options.device)
        left_s = options.until_s - (time.monotonic() - began_s)
        failed += run_stage(place, options.jobs, seeds, options.commit, left_s)
    print(f"{failed} tasks failed" if failed else "all done")
    return min(failed, 1)


def _plan(options: argparse.Namespace) -> int:
    stage = product_stage_of(options.stage)
    place = Place(options.stage, options.sets / stage.set_name(), options.results, WORK)
    for group in tasks_of(stage, place_clusters(place.set)):
        for task in group:
            print(task.name, "done" if place.result(task.name).exists() else "open")
    return 0


def _report(options: argparse.Namespace) -> int:
    print("\n".join(product_report(Played(options.stage, options.results))))
    return 0


def _pictures(options: argparse.Namespace) -> int:
    stage = product_stage_of(options.stage)
    folder = options.work / stage.name / PICTURES
    print(put_side_by_side(stage, folder, options.ways, options.height, options.out))
    return 0


PRODUCT_WAYS: dict[str, Callable[[argparse.Namespace], int]] = {
    "run": _run,
    "plan": _plan,
    "report": _report,
    "pictures": _pictures,
}
