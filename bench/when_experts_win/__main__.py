"""`python -m bench.when_experts_win run` draws the map of where experts win, as PROTOCOL.md says; `run
images` and `run clips` ask it of the product's own networks, as PROTOCOL-product.md says.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench.sets.command import add_set_options, make_by
from bench.when_experts_win.figure import write_figure
from bench.when_experts_win.jobs import jobs_of, run
from bench.when_experts_win.product_command import PRODUCT_WAYS, SETS, WORK, add_product_options
from bench.when_experts_win.product_stages import PRODUCT_STAGES
from bench.when_experts_win.recorded import HERE, PROTOCOLS, record_protocol
from bench.when_experts_win.report import Map, in_page, report
from bench.when_experts_win.settings import STAGES
from paris_p2p.disk import write_atomic
from paris_p2p.errors import ParisError

RESULTS = HERE / "results"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.when_experts_win", description=__doc__.split("\n")[0]
    )
    ways = parser.add_subparsers(dest="way", required=True)
    for way, does in (
        ("plan", "lists the jobs"),
        ("run", "does what has no result yet"),
        ("report", "prints tables from results"),
        ("figure", "draws the map from results"),
        ("page", "puts the tables into a page, between its marks"),
    ):
        command = ways.add_parser(way, help=does)
        stages = [*STAGES] if way not in PRODUCT_WAYS else [*STAGES, *PRODUCT_STAGES]
        command.add_argument("stage", nargs="?", default="digits", choices=stages)
        command.add_argument("--results", type=Path, default=RESULTS)
        if way == "run":
            command.add_argument("--jobs", type=int, default=2, help="that many at once, each on one thread")
            command.add_argument("--seeds", type=int, nargs="*", default=(), help="these alone")
            add_product_options(command)
        if way == "plan":
            command.add_argument("--sets", type=Path, default=SETS, help="folder of the stages' sets")
        if way == "page":
            command.add_argument("--page", type=Path, default=Path("docs/experiments.md"))
        if way == "figure":
            command.add_argument("--out", type=Path, default=Path("docs/pictures/when-experts-win.svg"))
    pictures = ways.add_parser("pictures", help="puts what ways of a stage made side by side")
    pictures.add_argument("stage", choices=[*PRODUCT_STAGES])
    pictures.add_argument("ways", nargs="+", help="their titles, such as monolith or 'experts kept'")
    pictures.add_argument("--work", type=Path, default=WORK, help="where the stage was played")
    pictures.add_argument("--height", type=int, default=512, help="pixels from the top of each column")
    pictures.add_argument("--out", type=Path, required=True, help="the JPEG")
    add_set_options(ways.add_parser("make", help="makes the set of a stage: pictures or clips"))
    ways.add_parser("protocol", help="records the protocols as they are now")
    options = parser.parse_args()
    try:
        if options.way == "make":
            make_by(options)
        elif getattr(options, "stage", "") in PRODUCT_STAGES:
            sys.exit(PRODUCT_WAYS[options.way](options))
        else:
            _play_digits(options)
    except ParisError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


def _play_digits(options: argparse.Namespace) -> None:
    if options.way == "plan":
        for group in jobs_of(options.stage):
            for job in group:
                print(job.name, "done" if job.path(options.results).exists() else "open")
    elif options.way == "run":
        run(options.stage, options.results, options.jobs, options.seeds)
    elif options.way == "report":
        print("\n".join(report(Map(options.stage, options.results))))
    elif options.way == "page":
        page = in_page(Map(options.stage, options.results), options.page.read_text("utf-8"))
        write_atomic(options.page, page)
    elif options.way == "figure":
        print(write_figure(Map(options.stage, options.results), options.out))
    else:
        for protocol in PROTOCOLS:
            print(f"recorded {record_protocol(protocol)}; commit it with {protocol.name}")


if __name__ == "__main__":
    main()
