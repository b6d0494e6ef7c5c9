"""`python -m bench.ddm_vs_monolith run core`: decentralized experts against one model; PROTOCOL.md says
how.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from threadpoolctl import threadpool_limits

from bench.ddm_vs_monolith.results import HERE, Results, record_protocol
from bench.ddm_vs_monolith.settings import SCALES
from paris_p2p.errors import ParisError

if TYPE_CHECKING:
    from bench.ddm_vs_monolith.data import Bench

WORK = Path("bench-out") / "ddm_vs_monolith"


def main() -> None:
    arguments = _parser().parse_args()
    logging.basicConfig(level=logging.WARNING)
    try:
        sys.exit(_run(arguments))
    except ParisError as error:
        sys.exit(f"{error}")


def _run(arguments: argparse.Namespace) -> int:
    if arguments.command == "protocol":
        print(f"recorded {record_protocol()}; commit it with PROTOCOL.md")
        return 0
    from bench.ddm_vs_monolith.data import Bench
    from bench.ddm_vs_monolith.runner import Runner, run_job

    scale = SCALES[arguments.scale]
    bench = Bench(
        scale,
        arguments.work.absolute() / scale.name,
        Results(arguments.results.absolute() / scale.name),
        arguments.threads,
    )
    if arguments.command == "job":
        run_job(bench, arguments.name)
    elif arguments.command == "run":
        return (
            0
            if Runner(bench, arguments.work.absolute(), arguments.results.absolute(), arguments.jobs).run(
                arguments.only
            )
            else 1
        )
    elif arguments.command == "report":
        with threadpool_limits(arguments.threads):  # small matrices: more threads wait for each other
            _report(bench, arguments.out, arguments.pictures)
    elif arguments.command == "plan":
        from bench.ddm_vs_monolith.show import show_plan

        show_plan(bench)
    return 0


def _report(bench: Bench, out: Path, pictures: Path | None) -> None:
    from bench.ddm_vs_monolith.compare import Comparison
    from bench.ddm_vs_monolith.report import write_report
    from bench.ddm_vs_monolith.tables import Findings

    findings = Findings(Comparison(bench.scale, bench.results))
    print(*write_report(findings, out, f"python -m bench.ddm_vs_monolith run {bench.scale.name}"), sep="\n")
    if pictures:
        from bench.ddm_vs_monolith.pictures import write_pictures

        print(*write_pictures(findings, pictures), sep="\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.ddm_vs_monolith", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("protocol", help="record the protocol's hash: the test split opens under no other")
    for name, words in (
        ("run", "run all jobs that are not done"),
        ("job", "run one job here"),
        ("report", "tables and one page, from the results alone"),
        ("plan", "print arms, their compute and the jobs"),
    ):
        command = commands.add_parser(name, help=words)
        command.add_argument("scale", choices=sorted(SCALES))
        if name == "job":
            command.add_argument("name")
        if name == "run":
            command.add_argument("--jobs", type=int, default=2, help="processes side by side")
            command.add_argument(
                "--only", default="", help="only jobs whose names begin so, and what they wait for"
            )
        if name == "report":
            command.add_argument(
                "--out",
                type=Path,
                default=WORK / "report",
                help="where page and tables go (default: %(default)s)",
            )
            command.add_argument("--pictures", type=Path, help="where clips (JPEG) and drawings (SVG) go too")
        command.add_argument("--threads", type=int, default=1, help="of each process")
        command.add_argument(
            "--work",
            type=Path,
            default=WORK,
            help="checkpoints and clips; may be deleted (default: %(default)s)",
        )
        command.add_argument(
            "--results",
            type=Path,
            default=HERE / "results",
            help="what the report is made from (default: %(default)s)",
        )
    return parser


if __name__ == "__main__":
    main()
