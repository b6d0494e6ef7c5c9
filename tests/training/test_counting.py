"""A node counts a run's parameters without loading torch itself."""

from __future__ import annotations

import json
import subprocess
import sys

from bench.bare_run import bare_run
from paris_p2p.spec import LatentShape, TextShape
from paris_p2p.training.counting import count_here, counts_of

_NODE = """
import json, sys
import paris_p2p.peer.start
from bench.bare_run import bare_run
from paris_p2p.spec import LatentShape, TextShape
from paris_p2p.training.counting import counts_of
run = bare_run(LatentShape(channels=4, frames=4, height=8, width=8), TextShape(tokens=8, dim=8, pooled_dim=8))
counts = [counts_of(run, slot).parameters for slot in run.slots]
print(json.dumps([counts, "torch" in sys.modules, "hivemind.dht.node" in sys.modules]))
"""


def test_a_node_with_its_swarm_and_its_counts_has_not_loaded_torch() -> None:
    done = subprocess.run([sys.executable, "-c", _NODE], capture_output=True, check=True)
    counts, has_torch, has_dht = json.loads(done.stdout)
    assert (has_torch, has_dht) == (False, True)
    latent, text = (
        LatentShape(channels=4, frames=4, height=8, width=8),
        TextShape(tokens=8, dim=8, pooled_dim=8),
    )
    run = bare_run(latent, text)
    expert = count_here(run.expert.config, router=False)
    assert counts[0] == expert.parameters
    assert 0 < expert.by_muon < expert.parameters
    assert counts[1] == count_here(run.router.config, router=True).parameters
    assert counts_of(run, "expert-0") == expert
