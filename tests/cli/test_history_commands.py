"""`paris-run history` and `receipts` read a peer's folder without a network, as people type them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from paris_p2p.cli import run
from paris_p2p.cli.history_words import sparkline
from paris_p2p.errors import UsageError
from paris_p2p.evaluation.history_curves import history_curves
from paris_p2p.node.history_reading import ToldHistory
from paris_p2p.swarm.fake import FakeNetwork
from tests.node.test_history import RUN, SLOT, grow, node_at, tips_of
from tests.rules.made import A, B


@pytest.fixture
async def home(tmp_path: Path) -> Path:
    async with node_at(tmp_path / "peer", FakeNetwork()) as node:
        grow(node, tips_of(10))
    return tmp_path / "peer"


def typed(*words: object) -> str:
    result = CliRunner().invoke(run.app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


async def test_a_history_is_told_as_text_as_a_table_as_json_and_as_curves(home: Path, tmp_path: Path) -> None:
    text = typed("history", home, "--last", 3)
    assert f"{SLOT}: 10 tips, 100 steps, 1,000 clips" in text
    assert "gate loss 2.0000 █" in text
    assert len([line for line in text.splitlines() if "…" in line and "2026" in line]) in (0, 3)
    rows = list(csv.DictReader(io.StringIO(typed("history", home, "--csv"))))
    assert [row["seq"] for row in rows] == [str(number) for number in range(1, 11)]
    assert rows[0]["seconds"] == ""
    told = json.loads(typed("history", home, "--json"))
    assert told["run"] == RUN.id
    assert [line["gate_loss"] for line in told["slots"][SLOT]] == [2.0 - k / 100 for k in range(10)]
    assert "wrote 10 points" in typed("history", home, "--tensorboard", tmp_path / "curves")
    assert "wrote 10 points" in typed("history", home, "--tensorboard", tmp_path / "curves")
    assert len(list((tmp_path / "curves" / SLOT).iterdir())) == 1
    (curve,) = history_curves(RUN.id, (tmp_path / "none", home))
    assert (curve.name, list(curve.x), curve.y[-1]) == ("expert 0", [100.0 * k for k in range(1, 11)], 1.91)
    for words in (("--csv", "--json"), ("--csv", "--previews", "sheet.png")):
        with pytest.raises(UsageError, match="choose one of"):
            typed("history", home, *words)


async def test_the_receipts_of_a_peers_own_folder_say_which_are_its_own(home: Path) -> None:
    assert "(this peer)" not in typed("receipts", home)
    (home / "identity.key").write_bytes(A.libp2p_private_key())
    lines = typed("receipts", home).splitlines()
    assert [line for line in lines if "(this peer)" in line] == [
        f"{A.peer_id} (this peer): 500 attested clips"
    ]


async def test_receipts_are_told_written_and_verified(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "proof"
    text = typed("receipts", home, "--out", file)
    assert f"{A.peer_id}: 500 attested clips" in text
    assert typed("receipts", "--verify", file).splitlines() == text.splitlines()[:-1]
    one = json.loads(typed("receipts", "--verify", file, "--peer", B.peer_id[-6:], "--json"))
    assert [(each["peer"], each["clips"]) for each in one["receipts"]] == [(B.peer_id, 500)]
    assert "nothing that was attested is known" in typed("receipts", home, "--peer", "nobody")
    with pytest.raises(UsageError, match="or a file to --verify"):
        typed("receipts")
    with pytest.raises(UsageError, match="choose one of them"):
        typed("receipts", "--verify", file, "--out", tmp_path / "other")


def test_bars_go_from_the_lowest_to_the_highest() -> None:
    assert sparkline([]) == ""
    assert sparkline([1.0]) == "▁"
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert len(sparkline(list(range(1000)))) == 48


def test_what_a_peer_says_of_itself_cannot_steer_the_terminal() -> None:
    one = ToldHistory(A.peer_id, error="\x1b[31mred")
    from paris_p2p.cli.history_words import _told_lines
    from paris_p2p.node.run_history import RunHistory
    from tests.rules.made_notices import state_of

    (line,) = _told_lines(RunHistory(state_of(RUN), {}, told=(one,)))
    assert "\x1b" not in line
