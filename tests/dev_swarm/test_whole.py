"""A whole swarm of real processes is broken by `paris dev-swarm`, and comes through."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from paris_p2p.dev_swarm.warden import all_marked

MINUTES = "2"
COMMAND = ("-m", "paris_p2p.cli.paris", "dev-swarm")
BREAK = ("--kill-every", "12s", "--pause-every", "20s", "--cut-every", "25s", "--seed", "0")
SPEED = "every slot's tip advances"  # within the minutes, which a busy machine may not manage


@pytest.mark.swarm
@pytest.mark.long
@pytest.mark.timeout(1800)  # against hanging: seven nodes start, which takes long where others work too
def test_a_swarm_that_is_killed_halted_and_cut_off_comes_through(tmp_path: Path) -> None:
    before = set(Path("/run/netns").glob("paris-dev-*")), set(all_marked())
    found = tmp_path / "found.json"
    done = subprocess.run(
        [
            *(
                sys.executable,
                *COMMAND,
                str(tmp_path / "run"),
                "--tiny",
                "--peers",
                "5",
                "--minutes",
                MINUTES,
            ),
            *(*BREAK, "--keep", str(tmp_path / "nodes"), "--json", str(found)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.exists(), done.stdout + done.stderr
    outcome = json.loads(found.read_text())
    broken = {one["name"]: one["found"] for one in outcome["held"] if not one["holds"]}
    assert set(broken) <= {SPEED}, (broken, done.stdout)
    assert done.returncode == (1 if broken else 0)
    kinds = {one["kind"] for one in outcome["troubles"]}
    assert kinds == {"kill", "pause", "cut"}
    for slot, tips in outcome["tips"].items():  # by the end of the time to recover
        assert tips[-1]["at_s"] > outcome["ended_s"], slot
    assert (set(Path("/run/netns").glob("paris-dev-*")), set(all_marked())) == before
