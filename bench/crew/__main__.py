"""Plays crews side by side: `python -m bench.crew prepare CLIPS FOLDER`, then `explore FOLDER [NAME…]`.

FOLDER is the prepared run. Results lie in bench/crew/results, and what is there is not played again. `bytes`
prints what updates weigh.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from bench.crew.experiments import FINAL, SEEDS, explored, final
from bench.crew.payloads import payload_table
from bench.crew.playing import play
from bench.crew.report import distances_table, read_results, report
from bench.crew.sampling import sample_rows
from paris_p2p.preparation.networks import PrepareOptions
from paris_p2p.preparation.prepare import prepare

RESULTS = Path(__file__).parent / "results"
PREPARED = PrepareOptions(
    experts=2,
    frames=8,
    height=32,
    width=32,
    fps=16.0,
    pca_patch_pixels=8,
    pca_channels=16,
    text_tokens=8,
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.crew", description=__doc__.split("\n")[0])
    ways = parser.add_subparsers(dest="way", required=True)
    making = ways.add_parser("prepare", help="prepare the clips of bench.clips")
    making.add_argument("clips", type=Path)
    making.add_argument("folder", type=Path)
    exploring = ways.add_parser("explore", help="one seed, many settings")
    exploring.add_argument("folder", type=Path)
    exploring.add_argument("names", nargs="*")
    exploring.add_argument("--results", type=Path, default=RESULTS)
    finishing = ways.add_parser("final", help="three seeds, the rows of the tables")
    finishing.add_argument("folder", type=Path)
    finishing.add_argument("groups", nargs="*", choices=[*FINAL])
    finishing.add_argument("--seeds", default=",".join(map(str, SEEDS)))
    finishing.add_argument("--results", type=Path, default=RESULTS)
    finishing.add_argument("--keep", type=Path, help="a folder for the averaged weights")
    sampling = ways.add_parser("sample", help="distances of sampled clips")
    sampling.add_argument("folder", type=Path)
    sampling.add_argument("keep", type=Path)
    sampling.add_argument("--results", type=Path, default=RESULTS)
    reporting = ways.add_parser("report", help="tables of what was played")
    reporting.add_argument("--results", type=Path, default=RESULTS)
    ways.add_parser("bytes", help="what updates weigh, and how long they take on home lines")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.way == "prepare":
        prepare(options.clips, options.folder, PREPARED)
    elif options.way == "explore":
        play(explored(options.names), options.folder, options.results)
    elif options.way == "final":
        for group in options.groups or FINAL:
            plans = final(group, [int(seed) for seed in options.seeds.split(",")])
            play(plans, options.folder, options.results, options.keep)
    elif options.way == "sample":
        sample_rows(options.folder, options.keep, options.results)
    elif options.way == "report":
        lines = [*report(read_results(options.results)), "", *distances_table(options.results)]
        print("\n".join(lines))
    else:
        print("\n".join(payload_table()))


if __name__ == "__main__":
    main()
