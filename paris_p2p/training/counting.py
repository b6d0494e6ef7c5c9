"""Counts the parameters of a run's networks, in a process of its own where torch is not loaded here.

A node asks this of each run, and has no other use for torch: 130 MiB that it does not keep.
`python -m paris_p2p.training.counting` takes one JSON line and answers with one.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from math import prod

from paris_p2p.spec import ROUTER, RunSpec

log = logging.getLogger(__name__)
_LIMIT_S = 300.0  # on a machine that is busy

NetworkConfig = Mapping[str, int | float | str | bool]


@dataclass(frozen=True)
class NetworkCounts:
    """What is counted of one network, and whether this CPU multiplies bfloat16 itself."""

    parameters: int
    by_muon: int  # of the matrices that Muon trains, in a run with it
    cpu_bf16: bool


def counts_of(spec: RunSpec, slot: str) -> NetworkCounts:
    """Returns what there is to count of a slot's network; those of a run are counted at once, and kept."""
    expert, router = _counted(_frozen(spec.expert.config), _frozen(spec.router.config))
    return router if slot == ROUTER else expert


def count_here(config: NetworkConfig, *, router: bool) -> NetworkCounts:
    """Counts in this process, which loads torch; RecordError when the numbers make no network."""
    from paris_p2p.device import pick_device
    from paris_p2p.model.presets import parameter_shapes
    from paris_p2p.model.state_parts import StateParts

    parts, shapes = StateParts(muon=True), parameter_shapes(dict(config), router=router)
    by_muon = sum(prod(shape) for name, shape in shapes.items() if parts.by_muon(name, shape))
    return NetworkCounts(sum(map(prod, shapes.values())), by_muon, pick_device("cpu").bf16)


@lru_cache(maxsize=64)
def _counted(
    expert: tuple[tuple[str, int | float | str | bool], ...],
    router: tuple[tuple[str, int | float | str | bool], ...],
) -> tuple[NetworkCounts, NetworkCounts]:
    configs = dict(expert), dict(router)
    if "torch" not in sys.modules and (told := _ask(configs)) is not None:
        return told
    return count_here(configs[0], router=False), count_here(configs[1], router=True)


def _ask(configs: tuple[NetworkConfig, NetworkConfig]) -> tuple[NetworkCounts, NetworkCounts] | None:
    """Returns what a process of its own counted; None where it could not."""
    command = [sys.executable, "-m", "paris_p2p.training.counting"]
    try:
        done = subprocess.run(
            command, input=json.dumps(configs).encode(), capture_output=True, timeout=_LIMIT_S, check=True
        )
        expert, router = (NetworkCounts(**each) for each in json.loads(done.stdout))
    except (OSError, subprocess.SubprocessError, ValueError, TypeError) as error:
        log.info("a process of its own could not count the networks' parameters: %s", error)
        return None
    return expert, router


def _frozen(config: NetworkConfig) -> tuple[tuple[str, int | float | str | bool], ...]:
    return tuple(sorted(config.items()))


def main() -> int:
    """Answers one question; an error's words go to stderr."""
    expert, router = json.loads(sys.stdin.readline())
    counted = count_here(expert, router=False), count_here(router, router=True)
    print(json.dumps([asdict(each) for each in counted]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
