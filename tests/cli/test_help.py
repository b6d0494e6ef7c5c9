"""`--help` must answer at once, so it may not import what takes seconds."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = (
    *("torch", "numpy", "hivemind", "diffusers", "transformers", "sklearn", "av", "libp2p"),
    "pydantic_settings",
)
SCRIPT = """
import json, sys
sys.argv = [{command!r}, *{words!r}, "--help"]
try:
    from paris_p2p.cli.{module} import main
    main()
except SystemExit as ended:
    status = ended.code
print(json.dumps([status, sorted(sys.modules)]), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("paris", []),
        ("paris", ["run", "evaluate"]),
        ("peer", []),
        ("peer", ["start"]),
        ("run", []),
        ("run", ["create"]),
        ("bootstrap", []),
        ("bootstrap", ["serve"]),
    ],
)
def test_help_imports_nothing_heavy(module: str, words: list[str]) -> None:
    script = SCRIPT.format(module=module, command=f"paris-{module}", words=words)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL
    )
    status, modules = json.loads(done.stderr.splitlines()[-1])
    assert status in (0, None)
    assert "Usage" in done.stdout
    assert "bool" not in done.stdout  # a flag takes no word
    assert [name for name in HEAVY if name in modules] == []
