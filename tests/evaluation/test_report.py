import json
from pathlib import Path
from urllib.parse import quote

import pytest

from paris_p2p.evaluation.options import EvaluateOptions
from paris_p2p.evaluation.report import _write, made_by

RUN, PEER = f"paris:{'ab' * 32}", "/ip4/192.0.2.7/tcp/31337/p2p/12D3KooW"
INVITE = f"{RUN}?peer={PEER}"


@pytest.mark.parametrize(
    "pasted", [INVITE, f"<{INVITE}>", f'"{INVITE}"', f"my invite: {INVITE}", quote(INVITE)]
)
def test_a_report_tells_the_run_and_never_the_invites_peers_however_it_was_pasted(pasted: str) -> None:
    made = made_by(["paris-run", "evaluate", pasted, "--data", "what?", "--out", "report"], EvaluateOptions())
    assert made["command"] == f"paris-run evaluate {RUN} --data 'what?' --out report"


def test_a_path_that_is_no_utf_8_ends_no_report(tmp_path: Path) -> None:
    _write(tmp_path / "results.json", json.dumps({"out": "caf\udce9"}, ensure_ascii=False))
    assert json.loads((tmp_path / "results.json").read_text()) == {"out": "caf\udce9"}
