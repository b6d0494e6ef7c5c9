"""Measures what serving costs the machine that trains, and what the node weighs.

    python -m bench.serving [--rounds 5] [--phase-s 8] [--mb-per-s 20]

(c) A trainer, pinned to core 0, works while the owner's node serves a blob at its upload limit, and while it
does not: A B A B. The node, its p2pd and the fetcher are pinned to core 1. The median time of a step in each
kind of phase, by the clock and in the trainer's own CPU seconds (which other programs on the machine disturb
less), and the CPU seconds of node and p2pd per gigabyte. A third kind of phase is the control: a loop on core
1 that only counts, for the same share of the core as serving and fetching took. What it costs is the
machine's (a shared cache, clock or physical core), not ours. (d) Resident memory of a volunteer's node that
joined and does not train, idle.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.row import print_row
from bench.transfer import Seeds
from examples.demo.processes import BIN, Node, wait_for_file
from paris_p2p.envelope import Envelope
from paris_p2p.identity import Identity
from paris_p2p.invite import Invite
from paris_p2p.node.blob_sources import SourceLedger
from paris_p2p.node.fetch import Fetcher
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.spec import RunSpec, open_run
from paris_p2p.store.blobs import BlobStore
from paris_p2p.swarm.real import open_swarm
from paris_p2p.training.messages import StepEvent, TrainJob, parse_event
from tests.made.made_prepared import make_run

PAD_BYTES = 64 << 20
PRESET = "micro"
SPIN_S = 0.01  # the control works and rests within this
SPIN = f"""
import sys, time
share, until = float(sys.argv[1]), time.monotonic() + float(sys.argv[2])
while (now := time.monotonic()) < until:
    while time.monotonic() - now < share * {SPIN_S}: pass
    time.sleep(max(0.0, (1 - share) * {SPIN_S}))
"""


@dataclass(frozen=True)
class Phase:
    """Measures one stretch of training, with or without serving beside it."""

    step_s: float  # mean, by the clock
    step_cpu_s: float  # mean, of the trainer's own CPU time
    served_bytes: int
    node_cpu_s: float  # of the node and its p2pd
    length_s: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--phase-s", type=float, default=8.0)
    parser.add_argument("--mb-per-s", type=float, default=20.0)
    parser.add_argument("--fetch", nargs=2, metavar=("INVITE", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fetch:
        asyncio.run(fetch_for_ever(Invite.parse(options.fetch[0]), Path(options.fetch[1])))
        return
    with tempfile.TemporaryDirectory(prefix="paris-bench-") as folder:
        root = Path(folder)
        run = make_run(root / "run", padding_bytes=PAD_BYTES, preset=PRESET)
        owner = start_owner(root, options.mb_per_s)
        try:
            invite = wait_for_file(root / "invite.txt", owner)
            measure_steps(root, run, owner, invite, options)
            measure_memory(root)
        finally:
            owner.stop()


def start_owner(root: Path, mb_per_s: float) -> Node:
    publish = [
        str(BIN / "paris-run"),
        "publish",
        str(root / "run"),
        "--host",
        "127.0.0.1",
        "--invite-file",
        str(root / "invite.txt"),
    ]
    command = ["taskset", "-c", "1", *publish, "--upload-limit", f"{mb_per_s}MB"]
    return Node("owner", command, root / "run" / "node", root / "owner.log").start()


# (c)


def measure_steps(
    root: Path, run: Envelope[RunSpec], owner: Node, invite: str, options: argparse.Namespace
) -> None:
    trainer = Trainer(root, run)
    fetcher = subprocess.Popen(
        [
            "taskset",
            "-c",
            "1",
            sys.executable,
            "-m",
            "bench.serving",
            "--fetch",
            invite,
            str(root / "fetched"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    if fetcher.stdin is None or fetcher.stdout is None:
        raise SystemExit("the fetcher has no pipes")
    fetcher.stdout.readline()  # it is connected
    alone, serving, control = [], [], []
    beside = psutil.Process(fetcher.pid)
    for number in range(options.rounds):
        alone.append(trainer.phase(options.phase_s, owner))
        fetcher.stdin.write("go\n")
        fetcher.stdin.flush()
        trainer.phase(1.0, owner)  # the stream gets up to speed
        fetched_cpu_s = tree_cpu_s(beside)
        serving.append(trainer.phase(options.phase_s, owner))
        share = (tree_cpu_s(beside) - fetched_cpu_s + serving[-1].node_cpu_s) / serving[-1].length_s
        fetcher.stdin.write("stop\n")
        fetcher.stdin.flush()
        fetcher.stdout.readline()
        with spinning(share):
            control.append(trainer.phase(options.phase_s, owner))
        steps = ", ".join(f"{phase.step_s * 1e3:.2f}" for phase in (alone[-1], serving[-1], control[-1]))
        print(
            f"  round {number + 1}: step {steps} ms alone, serving, with a loop for {share:.0%} of core 1",
            flush=True,
        )
    trainer.stop()
    fetcher.stdin.close()
    fetcher.wait()
    report_steps(alone, serving, control)


class Trainer:
    """Runs the project's own trainer process, pinned to core 0."""

    def __init__(self, root: Path, run: Envelope[RunSpec]):
        spec_path = root / "run" / "run.spec"
        (root / "out").mkdir()
        job = TrainJob(
            run=run.id,
            slot="expert-0",
            spec_path=spec_path,
            shard_paths=(root / "run" / "shards/train/cluster-0/000000.tar",),
            shard_clusters=(0,),
            out_dir=root / "out",
            device="cpu",
            threads=1,
            checkpoint_s=0,
        )
        command = ["taskset", "-c", "0", sys.executable, "-m", "paris_p2p.training.trainer"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        if self.process.stdin is None or self.process.stdout is None:
            raise SystemExit("the trainer has no pipes")
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        self.stdin.write(job.to_line().encode())
        self.stdin.flush()
        self.seen = psutil.Process(self.process.pid)
        self.step_event()
        self.step_event()  # warm

    def step_event(self) -> StepEvent:
        while line := self.stdout.readline():
            event = parse_event(line)
            if isinstance(event, StepEvent):
                return event
        raise SystemExit("the trainer ended")

    def phase(self, length_s: float, owner: Node) -> Phase:
        """Measures from one of its events, which come once a second, to the first that is `length_s`
        later.
        """
        first = self.step_event()
        began, cpu, node_cpu, sent = time.monotonic(), self.cpu_s(), node_cpu_s(owner), uploaded_bytes(owner)
        while True:
            event = self.step_event()
            if time.monotonic() - began >= length_s:
                break
        steps, spent = event.steps - first.steps, time.monotonic() - began
        used = self.cpu_s() - cpu
        return Phase(
            spent / steps, used / steps, uploaded_bytes(owner) - sent, node_cpu_s(owner) - node_cpu, spent
        )

    def cpu_s(self) -> float:
        times = self.seen.cpu_times()
        return float(times.user + times.system)

    def stop(self) -> None:
        self.stdin.close()
        self.process.wait()
        self.stdout.close()


def node_processes(node: Node) -> dict[str, psutil.Process]:
    """Returns the node's Python and its p2pd."""
    if node.process is None:
        raise SystemExit(f"{node.name} is not running")
    python = psutil.Process(node.process.pid)
    p2pd = next(child for child in python.children(recursive=True) if "p2pd" in child.name())
    return {"node": python, "p2pd": p2pd}


def node_cpu_s(node: Node) -> float:
    times = [process.cpu_times() for process in node_processes(node).values()]
    return float(sum(time.user + time.system for time in times))


def uploaded_bytes(node: Node) -> int:
    while (status := node.status()) is None:
        if not node.running:
            raise SystemExit(f"{node.name} ended:\n{node.last_lines()}")
        time.sleep(0.1)
    return int(status["uploaded_bytes"])


def tree_cpu_s(process: psutil.Process) -> float:
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return float(sum(time.user + time.system for time in times))


@contextmanager
def spinning(share: float) -> Iterator[None]:
    """Keeps `share` of core 1 busy meanwhile."""
    process = subprocess.Popen(["taskset", "-c", "1", sys.executable, "-c", SPIN, str(share), "3600"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def report_steps(alone: list[Phase], serving: list[Phase], control: list[Phase]) -> None:
    moved, length_s = sum(phase.served_bytes for phase in serving), sum(phase.length_s for phase in serving)
    what = (
        f"(c) a training step ({PRESET}) on core 0 while the node on core 1 serves "
        f"{moved / length_s / 1e6:.0f} MB/s"
    )
    step_ms = [
        statistics.median(phase.step_s for phase in phases) * 1e3 for phases in (alone, serving, control)
    ]
    result = (
        f"median step {step_ms[0]:.2f} ms alone, {step_ms[1]:.2f} ms serving, "
        f"{step_ms[2]:.2f} ms beside a loop of the same load;"
        f" medians of {len(alone)} ratios: serving to alone x{_ratio(serving, alone):.3f}, "
        f"loop to alone x{_ratio(control, alone):.3f},"
        f" serving to loop x{_ratio(serving, control):.3f}"
    )
    print_row(what, result)
    print_row(
        "(c) CPU seconds per GB served, node and p2pd",
        f"{sum(phase.node_cpu_s for phase in serving) / (moved / 1e9):.2f} s/GB",
    )


def _ratio(some: list[Phase], others: list[Phase]) -> float:
    return statistics.median(one.step_s / other.step_s for one, other in zip(some, others, strict=True))


async def fetch_for_ever(invite: Invite, folder: Path) -> None:
    """Fetches a run's largest shard again and again between the lines `go` and `stop`."""
    settings = PeerSettings(data_dir=folder, host="127.0.0.1")
    source = Seeds(BlobStore(folder / "none"))
    async with open_swarm(
        Identity.generate(), settings, bootstrap_peers=invite.peers, source=source
    ) as swarm:
        peer = invite.peers[0].rsplit("/", 1)[-1]
        spec = open_run(await swarm.fetch_spec(peer, invite.run), invite.run).record
        ref = max((shard.blob for shard in spec.train_shards), key=lambda blob: blob.size_bytes)

        async def sources() -> list[str]:
            return [peer]

        async def fetch_again() -> None:
            for number in range(1 << 30):
                await Fetcher(swarm, BlobStore(folder / str(number)), SourceLedger()).one(ref, sources)
                shutil.rmtree(folder / str(number))

        print("ready", flush=True)
        while await asyncio.to_thread(sys.stdin.readline):  # go
            task = asyncio.create_task(fetch_again())
            await asyncio.to_thread(sys.stdin.readline)  # stop
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            print("stopped", flush=True)


# (d)


def measure_memory(root: Path) -> None:
    command = [
        str(BIN / "paris-peer"),
        "start",
        f"@{root / 'invite.txt'}",
        "--yes",
        "--no-train",
        "--host",
        "127.0.0.1",
    ]
    data = root / "idle"
    node = Node("idle", [*command, "--data-dir", str(data)], data, root / "idle.log").start()
    try:
        while not (status := node.status()) or status["phase"] != "seeding":
            if not node.running:
                raise SystemExit(f"the idle node ended:\n{node.last_lines()}")
            time.sleep(0.5)
        time.sleep(10.0)  # idle is what is measured
        parts = {name: process.memory_full_info() for name, process in node_processes(node).items()}
    finally:
        node.stop()
    resident = {name: part.rss / 2**20 for name, part in parts.items()}
    words = ", ".join(
        f"{name} {size:.0f} MiB ({parts[name].uss / 2**20:.0f} MiB its own)"
        for name, size in resident.items()
    )
    print_row(
        "(d) resident memory of the node without the trainer", f"{sum(resident.values()):.0f} MiB: {words}"
    )


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
