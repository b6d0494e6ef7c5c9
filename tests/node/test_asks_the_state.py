"""What a notice can change is asked of the run's state, never of the RunSpec as it was signed."""

from __future__ import annotations

import ast
from pathlib import Path

import paris_p2p

# of a RunSpec: what notices change (rules/run_state.py, rules/growth.py)
CHANGEABLE = {
    "training",
    "timing",
    "gate",
    "gate_shards",
    "train_shards",
    "shards_for",
    "experts",
    "dropped_experts",
    "slots",
    "router",
    "data_blobs",
}
# before a run is joined nobody knows its notices: what a person is told first, and what its disk must hold
BEFORE_JOINING = {("peer/start.py", "data_blobs"), ("cli/run.py", "training")}
# what was signed beside what it is now, for a person; and all that the owner ever gave, to be served
ASKS_BOTH = ("cli/state_words.py", "node/governance.py", "node/run_disk.py")
ROOT = Path(paris_p2p.__file__).parent


def asked(source: str) -> set[str]:
    """The changeable fields that the code takes of a signed RunSpec."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in CHANGEABLE and is_signed(node.value):
            found.add(node.attr)
    return found


def is_signed(value: ast.expr) -> bool:
    """Whether it reads `….signed_spec`, `….word.signed`, `state.signed` or `run.record`."""
    if not isinstance(value, ast.Attribute):
        return False
    if value.attr in ("signed_spec", "signed"):
        return True
    return value.attr == "record" and isinstance(value.value, ast.Name) and value.value.id == "run"


def test_the_walk_finds_what_it_looks_for() -> None:
    assert asked("node.signed_spec.timing.claim_s") == {"timing"}
    assert asked("for slot in run.record.slots: pass") == {"slots"}
    assert asked("self.word.signed.owner, state.spec.gate, node.spec.slots") == set()


def test_no_decision_asks_the_signed_runspec_for_what_a_notice_can_change() -> None:
    found = {
        (str(path.relative_to(ROOT)), name)
        for room in ("node", "peer", "bootstrap", "cli")
        for path in sorted((ROOT / room).glob("*.py"))
        for name in asked(path.read_text())
    }
    assert {one for one in found if one[0] not in ASKS_BOTH} == BEFORE_JOINING
