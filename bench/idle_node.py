"""Measures what a node takes while nothing is trained: its share of a core and its memory.

    python -m bench.idle_node --seconds 60

An owner's node and one volunteer that only attests and seeds, each in a process of its own with a real p2pd,
on loopback, in a run whose slots nobody trains. Of the volunteer are told: processor time of the node and of
its p2pd as shares of a core, medians over spans of ten seconds, and memory as the kernel counts it: resident,
and proportional (what several processes share is divided among them).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

SPAN_S = 10.0
SETTLE_S = 30.0
START_LIMIT_S = 240.0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long is measured")
    parser.add_argument("--settle", type=float, default=SETTLE_S, help="seconds before that")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)  # role and folder
    wanted = parser.parse_args()
    if wanted.child:
        live(wanted.child[0], Path(wanted.child[1]))
        return
    with tempfile.TemporaryDirectory(prefix="idle-node-") as folder:
        print(json.dumps(measured(Path(folder), wanted.seconds, wanted.settle), indent=1))


def measured(folder: Path, for_s: float, settle_s: float) -> dict[str, float]:
    """Returns the medians over the spans of `for_s` seconds, after `settle_s`; memory in MiB."""
    with child("owner", folder) as owner:
        wait_for(folder / "invite", owner)
        with child("volunteer", folder) as volunteer:
            wait_for(folder / "volunteer" / "control.json", volunteer)
            time.sleep(settle_s)
            spans = [span(volunteer) for _ in range(max(1, round(for_s / SPAN_S)))]
            p2pd = daemon_of(volunteer)
            found = {name: statistics.median(each[name] for each in spans) for name in spans[0]}
            memory = {"node": memory_mib(volunteer), "p2pd": memory_mib(p2pd)}
    for name, (resident, proportional) in memory.items():
        found |= {f"{name}_resident_mib": resident, f"{name}_proportional_mib": proportional}
    found["load_average"] = os.getloadavg()[0]
    return {name: round(value, 4 if name.endswith("share") else 1) for name, value in found.items()}


def span(process: psutil.Process) -> dict[str, float]:
    """Returns the shares of a core of a node and its p2pd over one span."""
    both = {"node_core_share": process, "p2pd_core_share": daemon_of(process)}
    before, began_s = {name: used_s(each) for name, each in both.items()}, time.monotonic()
    time.sleep(SPAN_S)
    passed_s = time.monotonic() - began_s
    return {name: (used_s(each) - before[name]) / passed_s for name, each in both.items()}


def used_s(process: psutil.Process) -> float:
    return float(sum(process.cpu_times()[:2]))


def daemon_of(process: psutil.Process) -> psutil.Process:
    return next(each for each in process.children() if each.name().startswith("p2pd"))


def memory_mib(process: psutil.Process) -> tuple[float, float]:
    memory = process.memory_full_info()
    return memory.rss / 2**20, memory.pss / 2**20


@contextmanager
def child(role: str, folder: Path) -> Iterator[psutil.Popen]:
    command = [sys.executable, "-m", "bench.idle_node", "--child", role, str(folder)]
    with (folder / f"{role}.log").open("wb") as log:
        process = psutil.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(60)


def wait_for(path: Path, process: psutil.Popen) -> None:
    ends_s = time.monotonic() + START_LIMIT_S
    while not path.exists():
        if time.monotonic() > ends_s or process.poll() is not None:
            logs = "\n".join(each.read_text()[-2000:] for each in Path(path.parent).rglob("*.log"))
            raise TimeoutError(f"{path} is not there after {START_LIMIT_S:.0f} s\n{logs}")
        time.sleep(0.2)


def live(role: str, folder: Path) -> None:
    """Runs one of the two nodes until it is terminated."""
    from paris_p2p.invite import Invite
    from paris_p2p.peer.kept_changes import KeptChanges
    from paris_p2p.peer.start import run_owner, run_peer
    from paris_p2p.peer_settings import PeerSettings

    settings = PeerSettings(data_dir=folder / role, host="127.0.0.1", device="cpu")
    if role == "owner":
        invite = folder / "invite"
        run_owner(settings, run(), (), lambda made: write_whole(invite, str(made)))
    else:
        parsed = Invite.parse((folder / "invite").read_text())
        run_peer(KeptChanges(settings, {}, {}), parsed, confirm=None, train=False)


def run():  # type: ignore[no-untyped-def]
    """Returns a run of three experts and a router that nobody prepared clips for, signed."""
    from bench.bare_run import bare_run
    from paris_p2p.identity import Identity
    from paris_p2p.spec import LatentShape, TextShape, sign_run

    latent = LatentShape(channels=4, frames=4, height=8, width=8)
    text = TextShape(tokens=8, dim=8, pooled_dim=8)
    return sign_run(Identity.generate(), bare_run(latent, text, experts=3, created_at=time.time() - 60))


def write_whole(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    part.write_text(text)
    part.rename(path)


if __name__ == "__main__":
    main()
