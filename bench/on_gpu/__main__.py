"""Measures and checks on a machine with a GPU what was only ever run on CPUs.

    .venv/bin/python -m bench.on_gpu --out bench-out/gpu [--quick] [--device cuda] [--budget-s 230]

Trains through the real trainer's process, asks the real gate's, and makes clips with the engine and
ParisPipeline: on the device and, where they are held beside each other, on the CPU. Parts are processes of
their own with an end in time. First those whose speed does not matter run side by side; then the timed ones,
one after the other, as long as there is time. Prints a table, writes OUT/results.json, and fails when a check
is off. `--quick` takes sizes that a CPU trains in seconds.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch

from bench.on_gpu import training, using
from bench.on_gpu.findings import Finding, Findings, Number, read_findings, write_results
from bench.on_gpu.repeatable import repeatable
from bench.on_gpu.setting import COMPARED, TIMED, Setting
from bench.row import machine
from paris_p2p.device import pick_device, set_threads

Part = Callable[[Setting, Findings], None]
PARTS: dict[str, Part] = {
    "learn": training.learn,
    "resume": training.resume,
    "warm": training.warm,
    "gate": using.gate,
    "sample": using.sample,
    "limits": training.limits,
    "generating": using.generating,
    "repeatable": repeatable,
    "speed": training.speed,
}
# Each row's parts run side by side; the share of the whole time by whose end they must be done.
STAGES = (
    (("learn", "resume", "warm"), 0.4),
    (("gate", "sample", "limits"), 0.65),
    (("generating",), 0.75),
    (("repeatable",), 0.8),
    (("speed",), 1.0),
)


def main() -> int:
    """Runs all parts, or one in this process; returns 1 when a check is off."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the results, the logs and all work"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:<n>")
    parser.add_argument("--quick", action="store_true", help="sizes that a CPU trains in seconds")
    parser.add_argument("--budget-s", type=float, default=230.0, help="seconds of all parts together")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--one", choices=PARTS, help=argparse.SUPPRESS)  # in this process
    parser.add_argument("--end-at", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--keep-work", action="store_true", help="leave checkpoints and clips in OUT/work")
    options = parser.parse_args()
    device = str(pick_device(options.device))
    if options.one:
        return _run_here(
            options.one, Setting(options.out / "work", device, options.quick, options.end_at), options.out
        )
    options.out.mkdir(parents=True, exist_ok=True)
    found = _run_all(options, device)
    write_results(options.out / "results.json", _about(device), found)
    if not options.keep_work:
        for name in (COMPARED, TIMED, "exported"):
            shutil.rmtree(options.out / "work" / name, ignore_errors=True)
    print("\n" + "\n".join(finding.row() for finding in found))
    off = [finding for finding in found if finding.ok is False]
    print(f"{len(found)} findings on {device}, {len(off)} off; {options.out / 'results.json'}")
    return 1 if off else 0


def _run_all(options: argparse.Namespace, device: str) -> list[Finding]:
    """Runs the parts stage by stage and returns what they found, and what did not end well."""
    started_at, found = time.time(), []
    setting = Setting(options.out / "work", device, options.quick, started_at + options.budget_s)
    setting.compared_run()  # once, before parts make it again side by side
    for preset in {*setting.sizes.timed_presets, setting.sizes.sampled_preset}:
        setting.timed_run(preset)
    for names, share in STAGES:
        parts = [name for name in names if name in options.parts]
        end_at = started_at + share * options.budget_s
        run_part = partial(_run_part, options=options, device=device, end_at=end_at)
        with ThreadPoolExecutor(1 if device == "cpu" else max(1, len(parts))) as pool:
            ended = list(pool.map(run_part, parts))
        for name, words in zip(parts, ended, strict=True):
            path = _path(options.out, name)
            findings = read_findings(path)
            if words:
                findings.append(Finding(part=name, what="the whole part", result=words, ok=False))
            found += findings
    seconds = time.time() - started_at
    found.append(Finding(part="all", what="seconds of all parts", result=f"{seconds:.0f} s"))
    return found


def _run_part(name: str, options: argparse.Namespace, device: str, end_at: float) -> str:
    """Runs a part in a process of its own; returns what went wrong with it, or nothing."""
    _path(options.out, name).unlink(missing_ok=True)
    command = [sys.executable, "-m", "bench.on_gpu", "--out", str(options.out), "--device", device]
    command += ["--one", name, "--end-at", str(end_at), *(["--quick"] if options.quick else [])]
    try:
        done = subprocess.run(command, timeout=max(1.0, end_at - time.time() + 5))
    except subprocess.TimeoutExpired:
        return "took too long and was ended"
    return "" if done.returncode == 0 else f"ended with status {done.returncode}"


def _run_here(name: str, setting: Setting, out: Path) -> int:
    """Runs a part; returns 1 when it raises, its traceback on stderr and in what it found."""
    findings = Findings(name, _path(out, name))
    set_threads(setting.threads)
    try:
        PARTS[name](setting, findings)
    except Exception as error:  # noqa: BLE001
        # The process's outermost frame: the other parts go on.
        traceback.print_exc()
        findings.add("the part", f"raised {type(error).__name__}: {str(error)[:1500]}", ok=False)
    return 0


def _about(device: str) -> dict[str, Number]:
    about: dict[str, Number] = {
        "device": device,
        "machine": machine(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu_cores": os.cpu_count(),
        "cpu_precision": pick_device("cpu").precision,
        "date": time.strftime("%Y-%m-%d"),
    }
    if device != "cpu":
        about |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    return about


def _path(out: Path, name: str) -> Path:
    return out / f"part-{name}.json"


if __name__ == "__main__":
    sys.exit(main())
