"""`python -m bench.ddm_vs_monolith run core` compares experts with one model, as PROTOCOL.md says."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from threadpoolctl import threadpool_limits

from bench.ddm_vs_monolith.results import HERE, Results, record_protocol
from bench.ddm_vs_monolith.settings import SCALES
from paris_p2p.errors import ParisError

if TYPE_CHECKING:
    from bench.ddm_vs_monolith.data import Bench

WORK = Path("bench-out") / "ddm_vs_monolith"
RELEASE_URL = "https://github.com/paris-p2p/paris-p2p/releases/download/v0.2.0"


def main() -> None:
    arguments = _parser().parse_args()
    logging.basicConfig(level=logging.WARNING)
    try:
        sys.exit(COMMANDS[arguments.command](arguments))
    except ParisError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


def _protocol(arguments: argparse.Namespace) -> int:
    print(f"recorded {record_protocol()}; commit it with PROTOCOL.md")
    return 0


def _fetch(arguments: argparse.Namespace) -> int:
    from bench.ddm_vs_monolith.assets import Assets, fetch

    assets = Assets.read(arguments.manifest)
    for scale in arguments.scales or assets.scales:
        print(f"{scale}: {len(fetch(scale, assets, arguments.results, arguments.url))} files fetched")
    return 0


def _pack(arguments: argparse.Namespace) -> int:
    from bench.ddm_vs_monolith.assets import asset_name, pack
    from bench.ddm_vs_monolith.results import write_json

    scales = arguments.scales or sorted(path.parent.name for path in arguments.results.glob("*/test.npz"))
    assets = pack(scales, arguments.results, arguments.out, arguments.url)
    write_json(arguments.manifest, assets.model_dump())
    print(*(arguments.out / asset_name(scale) for scale in assets.scales), arguments.manifest, sep="\n")
    return 0


def _job(arguments: argparse.Namespace) -> int:
    from bench.ddm_vs_monolith.runner import run_job

    run_job(_bench(arguments), arguments.name)
    return 0


def _run(arguments: argparse.Namespace) -> int:
    from bench.ddm_vs_monolith.runner import Runner

    work, results = arguments.work.absolute(), arguments.results.absolute()
    runner = Runner(_bench(arguments), work, results, arguments.jobs)
    return 0 if runner.run(arguments.only) else 1


def _plan(arguments: argparse.Namespace) -> int:
    from bench.ddm_vs_monolith.show import show_plan

    show_plan(_bench(arguments))
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from bench.ddm_vs_monolith.compare import Comparison
    from bench.ddm_vs_monolith.findings import Findings
    from bench.ddm_vs_monolith.report import write_report

    bench = _bench(arguments)
    with threadpool_limits(arguments.threads):  # small matrices: more threads wait for each other
        findings = Findings(Comparison(bench.scale, bench.results))
        command = f"python -m bench.ddm_vs_monolith run {bench.scale.name}"
        print(*write_report(findings, arguments.out, command), sep="\n")
        if arguments.pictures:
            from bench.ddm_vs_monolith.pictures import write_pictures

            print(*write_pictures(findings, arguments.pictures), sep="\n")
    return 0


def _bench(arguments: argparse.Namespace) -> Bench:
    from bench.ddm_vs_monolith.data import Bench

    scale = SCALES[arguments.scale]
    work, results = arguments.work.absolute() / scale.name, arguments.results.absolute() / scale.name
    return Bench(scale, work, Results(results), arguments.threads)


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "protocol": _protocol,
    "fetch": _fetch,
    "pack": _pack,
    "run": _run,
    "job": _job,
    "report": _report,
    "plan": _plan,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.ddm_vs_monolith",
        description="Decentralized experts against one model; PROTOCOL.md says how.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("protocol", help="record the protocol's hash: the test split opens under no other")
    _scale_parsers(commands)
    _asset_parsers(commands)
    return parser


def _scale_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
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
            only = "only jobs whose names begin so, and what they wait for"
            command.add_argument("--only", default="", help=only)
        if name == "report":
            out = "where page and tables go (default: %(default)s)"
            command.add_argument("--out", type=Path, default=WORK / "report", help=out)
            command.add_argument("--pictures", type=Path, help="where clips (JPEG) and drawings (SVG) go too")
        command.add_argument("--threads", type=int, default=1, help="of each process")
        work = "checkpoints and clips; may be deleted (default: %(default)s)"
        command.add_argument("--work", type=Path, default=WORK, help=work)
        results = "what the report is made from (default: %(default)s)"
        command.add_argument("--results", type=Path, default=HERE / "results", help=results)


def _asset_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    fetch = commands.add_parser("fetch", help="download the arrays behind results/ and check their hashes")
    fetch.add_argument("--url", help="folder that has the assets (default: the manifest's)")
    pack = commands.add_parser("pack", help="pack arrays as assets of a release, and write their manifest")
    pack.add_argument("--url", default=RELEASE_URL, help="where they will be (default: %(default)s)")
    out = "where the assets go (default: %(default)s)"
    pack.add_argument("--out", type=Path, default=WORK / "assets", help=out)
    for command in (fetch, pack):
        command.add_argument("scales", nargs="*", metavar="SCALE", help="which scales (default: all)")
        results = "the folder of all scales' results (default: %(default)s)"
        command.add_argument("--results", type=Path, default=HERE / "results", help=results)
        manifest = "names, sizes and hashes of the assets (default: %(default)s)"
        command.add_argument("--manifest", type=Path, default=HERE / "assets.json", help=manifest)


if __name__ == "__main__":
    main()
