"""Whatever a peer signs goes through `RunNode.sign`: what does not looks like another node with its key."""

from __future__ import annotations

from pathlib import Path

import paris_p2p


def test_nobody_signs_records_past_the_node() -> None:
    root = Path(paris_p2p.__file__).parent
    sealing = [
        path.relative_to(root)
        for path in root.rglob("*.py")
        if "seal(" in path.read_text().replace("def seal(", "")
    ]
    assert sealing == [Path("node/run_node.py")]
