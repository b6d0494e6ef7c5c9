"""Runs the demo's processes: each a command of the project with a data directory of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paris_p2p.errors import UnreachableError
from paris_p2p.node.control_client import call_control

BIN = Path(sys.executable).parent


@dataclass
class Node:
    """Runs one command in the background, its output in a log file."""

    name: str
    command: list[str]
    data_dir: Path
    log: Path
    process: subprocess.Popen[bytes] | None = None
    last_status: dict[str, Any] = field(default_factory=dict)

    def start(self) -> Node:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
        return self

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def status(self) -> dict[str, Any] | None:
        """Returns what the node says of itself; None while it starts, or when it is gone."""
        if not self.running:
            return None
        try:
            self.last_status = call_control(self.data_dir, "GET", "status", timeout_s=10.0)
        except (UnreachableError, json.JSONDecodeError, urllib.error.URLError, KeyError):
            return None
        return self.last_status

    def ask(self, action: str) -> str:
        return str(call_control(self.data_dir, "POST", action, timeout_s=120.0)["message"])

    def kill(self) -> None:
        """Sends SIGKILL to the node process alone: its trainer and p2pd must die by themselves."""
        if self.process is not None and self.running:
            self.process.kill()
            self.process.wait()

    def destroy(self) -> None:
        """Sends SIGKILL and deletes the directory, so that nothing of this machine is left."""
        self.kill()
        shutil.rmtree(self.data_dir, ignore_errors=True)

    def stop(self, wait_s: float = 30.0) -> None:
        if self.process is None or not self.running:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(wait_s)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(5.0)
            except subprocess.TimeoutExpired:
                self.kill()

    def last_lines(self, count: int = 15) -> str:
        return (
            "\n".join(self.log.read_text(errors="replace").splitlines()[-count:]) if self.log.exists() else ""
        )


def run_command(name: str, *arguments: str, log: Path, prefix: tuple[str, ...] = ()) -> None:
    """Runs one of our commands to its end, after `prefix`; its last words are shown when it fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    # Threads that spin while they wait for one another stand still on a machine whose cores others are using.
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    with log.open("ab") as file:
        status = subprocess.run(
            [*prefix, str(BIN / name), *arguments],
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
            check=False,
        )
    if status.returncode:
        words = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        raise SystemExit(
            f"`{name} {' '.join(arguments)[:200]}` failed with status {status.returncode}:\n{words}"
        )


def wait_for_file(path: Path, node: Node, wait_s: float = 60.0) -> str:
    """Returns the file's text once it is there; the node's own words when it is not."""
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        if path.exists() and (text := path.read_text().strip()):
            return text
        if not node.running:
            raise SystemExit(f"{node.name} ended instead of starting; it said:\n{node.last_lines()}")
        time.sleep(0.2)
    raise SystemExit(f"{node.name} did not write {path} within {wait_s:.0f} s; it said:\n{node.last_lines()}")
