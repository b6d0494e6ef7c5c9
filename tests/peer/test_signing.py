"""Whatever a peer signs goes through `RunNode.sign`: what does not looks like another node with its key."""

from __future__ import annotations

import re
from pathlib import Path

import paris_p2p


def files_with(call: str) -> set[str]:
    root = Path(paris_p2p.__file__).parent
    found = re.compile(rf"(?<!def )(?<!\w){call}")
    return {str(path.relative_to(root)) for path in root.rglob("*.py") if found.search(path.read_text())}


def test_nobody_signs_records_past_the_node() -> None:
    # Certificates and tokens are handed over in person; the owner's key is no peer's.
    in_person, owners = (
        {"node/admitting.py", "invite.py"},
        {"preparation/owner_words.py", "preparation/known_run.py"},
    )
    assert files_with(r"seal\(") - owners == {"veil.py", "node/run_swarm.py", *in_person}
    assert files_with(r"seal_record\(") - owners == {"node/run_swarm.py"}
    assert files_with(r"swarm\.sign\(") == {"node/run_records.py", "bootstrap/keeper.py"}


def test_no_node_tells_or_reads_a_runs_records_past_the_runs_own_part_of_the_swarm() -> None:
    """Past it they would leave this machine in clear, also in a private run."""
    words = "store_record|read_records|fetch_records|publish|subscribe|unsubscribe"
    spoken = rf"(host\.|_|[ (])swarm(\(\))?\.({words})\("
    root = Path(paris_p2p.__file__).parent
    found = {
        str(path.relative_to(root))
        for room in ("node", "peer", "bootstrap", "preparation", "cli")
        for path in (root / room).rglob("*.py")
        if re.search(spoken, path.read_text())
    }
    assert found == {"node/run_swarm.py"}
