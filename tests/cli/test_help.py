"""`--help` must answer at once, so it may not import what takes seconds."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "hivemind", "diffusers", "transformers", "sklearn", "av", "libp2p")
SCRIPT = """
import json, sys
sys.argv = [{command!r}, "--help"]
try:
    from paris_p2p.cli.{module} import main
    main()
except SystemExit as ended:
    status = ended.code
print(json.dumps([status, sorted(sys.modules)]), file=sys.stderr)
"""


@pytest.mark.parametrize("module", ["peer", "run", "bootstrap"])
def test_help_imports_nothing_heavy(module: str) -> None:
    script = SCRIPT.format(module=module, command=f"paris-{module}")
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL
    )
    status, modules = json.loads(done.stderr.splitlines()[-1])
    assert status in (0, None)
    assert "Usage" in done.stdout
    assert [name for name in HEAVY if name in modules] == []
