"""The demo's tables fit 80 columns, and its last word is honest about what did not come."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from examples.demo import run
from examples.demo.judge import Check, Verdict
from examples.demo.processes import Node
from examples.demo.report import Report
from examples.demo.shares import Look
from examples.demo.sizes import SIZES, Plan, Speed
from examples.demo.story import VICTIM_SLOT, Training
from examples.demo.swarm import HandOver, Swarm, drawn
from tests.examples.widths import printed

SLOTS = ("expert-0", "expert-1", "expert-2", "router")
PLAN = Plan(SIZES[0], Speed(0.1, 0.02, 2.0, 0.05), 900.0, 500.0, fits=True)
GOOD = Verdict((Check("prompted scenario recognised, 60 clips", 0.97, 0.80),), {"a note": "in words"})
BAD = Verdict((Check("flicker, worst (real 0, shuffled 1)", 0.808, 0.50, at_least=False),))


def slot(name: str, steps: int, **more: Any) -> dict[str, Any]:
    """Returns a slot as a status has it, with the widest values that a demo can come to."""
    tip = {
        "tip": "ab" * 32,
        "tip_epoch": 12,
        "tip_seq": 34,
        "tip_age_s": 1234.5,
        "loss": 1.23456,
        "attestations": 1,
    }
    return {"slot": name, "lead": "", "steps": steps, "clips": 8 * steps, **tip, **more}


class RunningNode(Node):
    running = True  # type: ignore[assignment]


def node(name: str, leads: str = "", steps: int = 0) -> Node:
    training = {"slot": leads, "steps": steps, "loss": 1.23456, "clips_per_s": 123.4, "device": "cpu"}
    made = RunningNode(name, [], Path(name), Path(f"{name}.log"))
    made.last_status = {"phase": "training", "training": training if leads else None}
    return made


def training(steps: int, over: HandOver | None = None, *, ends_in_s: float = 100.0) -> Training:
    """Makes a swarm whose slots all stand at `steps`."""
    swarm = Swarm(Path("nowhere"), 5)
    swarm.owner = node("owner")
    swarm.owner.last_status |= {"slots": [slot(name, steps) for name in SLOTS], "at": time.time()}
    swarm.volunteers = [node(f"peer-{k + 1}", name, steps) for k, name in enumerate(SLOTS)]
    swarm.leads = {name: ["peer-1", "peer-2", "peer-3", "peer-4", "peer-5"] for name in SLOTS}
    swarm.hand_over = over or HandOver(
        VICTIM_SLOT, "peer-1", time.monotonic() - 90, 1, 400, 450, 41.9, "peer-5", 80.0
    )
    made = Training(swarm, PLAN, time.monotonic() + ends_in_s)
    made.shares.begin([])
    made.shares.add([Look(7, 0.0, 1, ("python", "-m", "paris_p2p.training.trainer"), 700.0, 0.0)])
    made.made = dict.fromkeys(SLOTS, steps)
    return made


def report(made: Training, verdict: Verdict | None) -> Report:
    return Report(made, made.got(), {"measuring": 20.0}, verdict, run.ending(PLAN, made, verdict))


def test_no_table_is_cut_in_a_log_of_80_columns() -> None:
    made = training(1950)
    for table in report(made, GOOD).tables():
        text = printed(table, 80)
        assert "…" not in text
        assert max(map(len, text.splitlines())) <= 80
    live = printed(made.swarm.draw(made.title()), 80)
    assert "…" not in live
    header = next(line for line in live.splitlines() if line.startswith("slot"))
    assert header.split()[-1] == "signed"
    assert all(value in live for value in drawn(slot("expert-1", 1950), made.swarm.volunteers[1]))


def test_the_report_is_written_as_markdown_to_paste_and_as_json(tmp_path: Path) -> None:
    report(training(2000), GOOD).write(tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "| prompted scenario recognised, 60 clips (at least 0.80) | 0.970 |" in text
    assert "| processor time: trainers | 700 s, 100.0% |" in text
    numbers = json.loads((tmp_path / "report.json").read_text())
    assert numbers["training_share"] == 1.0
    assert numbers["plan"]["size"]["name"] == "large"
    assert numbers["checks"][0]["passed"] is True


def test_a_demo_whose_every_promise_came_passes() -> None:
    assert run.ending(PLAN, training(2000), GOOD).startswith(run.PASSED)


def test_a_missed_promise_fails_with_its_figure() -> None:
    words = run.ending(PLAN, training(2000), BAD)
    assert words.startswith(run.FAILED)
    assert "flicker" in words
    assert "0.808" in words


def test_a_swarm_that_lost_its_slot_fails_however_good_the_clips_are() -> None:
    lost = HandOver(VICTIM_SLOT, "peer-1", time.monotonic(), 1, 400, 450)
    words = run.ending(PLAN, training(2000, lost), GOOD)
    assert words.startswith(run.FAILED)
    assert "nobody took it over" in words
    assert "nobody was killed" in run.ending(PLAN, training(2000, HandOver()), GOOD)


def test_a_training_cut_short_fails_on_an_idle_machine_and_is_not_judged_on_a_busy_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for idle_s, word in ((80.0, run.FAILED), (5.0, run.UNFINISHED)):
        monkeypatch.setattr("examples.demo.story.machine_s", lambda idle_s=idle_s: (idle_s, 100.0))
        made = training(1000)
        made.shares.add([Look(7, 0.0, 1, ("python", "-m", "paris_p2p.training.trainer"), 320.0, 0.0)])
        words = run.ending(PLAN, made, BAD)
        assert words.startswith(word)
        assert "expert-2 1,000" in words
        assert "0.808" in words


def test_nothing_to_generate_with_is_no_pass() -> None:
    assert not run.ending(PLAN, training(1000), None).startswith(run.PASSED)


def test_a_lead_is_killed_once_its_slot_has_a_tip_and_a_third_of_its_work() -> None:
    early, due, again = training(400, HandOver()), training(700, HandOver()), training(700)
    assert not early.kill_is_due()
    assert due.kill_is_due()
    assert not again.kill_is_due()
    tipless = training(700, HandOver())
    tipless.swarm.slot(VICTIM_SLOT)["tip"] = ""
    assert not tipless.kill_is_due()
    late = training(400, HandOver())
    late.began_at, late.ends_at = time.monotonic() - 1000, time.monotonic() + 10
    assert late.kill_is_due()


def test_training_is_over_with_every_slots_last_step_and_the_hand_over_or_when_time_is() -> None:
    assert training(2000).over()
    assert not training(1999).over()
    assert not training(2000, HandOver(VICTIM_SLOT, "peer-1", time.monotonic(), 1, 400, 450)).over()
    assert training(100, ends_in_s=-1.0).over()


def test_steps_that_a_killed_lead_lost_count_as_made() -> None:
    made = training(400)
    made.note()
    made.swarm.volunteers[0].last_status["training"]["steps"] = 450
    made.note()
    made.swarm.volunteers.append(node("peer-5", VICTIM_SLOT, 401))
    made.swarm.volunteers[0].last_status["training"] = None
    made.note()
    made.swarm.volunteers[-1].last_status["training"]["steps"] = 500
    made.note()
    assert made.made[VICTIM_SLOT] == (450 - 400) + (500 - 400)


def test_refusing_bfloat16_reaches_every_process_that_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PARIS_NO_BFLOAT16", "ONEDNN_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(name, "")  # put back afterwards
    run.refuse_bfloat16()
    import os

    from paris_p2p.device import pick_device

    assert os.environ["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    assert pick_device("cpu").precision == "fp32"
