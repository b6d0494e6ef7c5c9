"""`paris doctor` and the quick look of `start`: a report with a stable schema, and no traceback whatever is
found.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from paris_p2p.cli import paris
from paris_p2p.cli.doctor_words import draw_report
from paris_p2p.data.batches import Batch
from paris_p2p.doctor.finding import Diagnosis, Finding
from paris_p2p.doctor.side_by_side import Check
from paris_p2p.errors import (
    ClockError,
    DaemonError,
    ParisError,
    PortInUseError,
    SwarmError,
    UnreachableError,
)
from paris_p2p.peer import examination
from paris_p2p.peer.examination import Looked, check_quickly, examine, report_of
from paris_p2p.peer.machine import Machine
from paris_p2p.peer.room import Room
from paris_p2p.peer.run_outlook import RunFacts, SlotNews, judge_run, judge_versions, slot_outlooks
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.rules.versions import compare_versions
from paris_p2p.training import speed_trial
from paris_p2p.training.learner import Learner
from paris_p2p.training.messages import SpeedJob, SpeedResult
from paris_p2p.training.speed_trial import time_slot
from tests.made.tiny_run import TRAINING, TinyRun

GOOD = Finding(check="memory", verdict="good", found="enough")
BAD = Finding(check="system", verdict="cannot", found="a toaster", wanted="Linux", mend="another machine")
POOR = Finding(check="open-files", verdict="poor", found="12", wanted="4,096", mend="ulimit -n 4096")


def quick(monkeypatch: pytest.MonkeyPatch, *findings: Finding) -> None:
    checks = [Check(one.check, lambda one=one: one, 5.0) for one in findings]  # type: ignore[misc]
    monkeypatch.setattr(examination, "machine_checks", lambda *_, **__: checks)


def drawn(report: Diagnosis) -> str:
    console = Console(width=80, file=None, record=True, force_terminal=False)
    with console.capture() as captured:
        console.print(draw_report(report))
    return captured.get()


def test_start_says_what_is_poor_and_refuses_only_what_cannot_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    quick(monkeypatch, GOOD, POOR)
    check_quickly(tmp_path, said.append)
    assert len(said) == 1
    assert "ulimit -n 4096" in said[0]
    quick(monkeypatch, GOOD, BAD)
    with pytest.raises(ParisError, match=r"toaster.*another machine"):
        check_quickly(tmp_path, said.append)


def test_the_quick_look_at_this_machine_writes_nothing(tmp_path: Path) -> None:
    check_quickly(tmp_path / "home", lambda words: None)
    assert list(tmp_path.iterdir()) == []


def test_the_command_answers_json_of_the_schema_and_its_verdict_as_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for found, status in ((GOOD, 0), (BAD, 1), (POOR, 2)):
        quick(monkeypatch, found)
        words = ["doctor", "--offline", "--json", "--data-dir", str(tmp_path / "home")]
        result = CliRunner().invoke(paris.app, words)
        assert result.exit_code == status, result.output
        report = Diagnosis.model_validate_json(result.stdout)
        assert report.exit_status == status
        assert json.loads(result.stdout)["schema_version"] == 1
        assert report.findings[-1].check == "network"  # and why it was not looked at


def test_without_an_invite_only_the_port_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch, GOOD)
    report = examine(PeerSettings(data_dir=tmp_path, host="127.0.0.1"))
    assert [one.check for one in report.findings] == ["memory", "port", "network"]
    assert report.exit_status == 0


@pytest.mark.parametrize(
    ("error", "check"),
    [
        (UnreachableError("nobody answered"), "peers"),
        (ClockError("7 s behind"), "clock-of-peers"),
        (PortInUseError("another program"), "port"),
        (DaemonError("p2pd is not installed"), "peers"),
    ],
)
def test_a_network_that_cannot_be_joined_is_a_finding_and_no_error(
    error: SwarmError, check: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from paris_p2p.invite import Invite

    def fails(*_: Any) -> Any:
        raise error

    quick(monkeypatch, GOOD)
    monkeypatch.setattr(examination, "looking_at_run", fails)
    invite = Invite(run="ab" * 32, peers=())
    report = examine(PeerSettings(data_dir=tmp_path), invite)
    found = report.findings[-1]
    assert (found.check, found.verdict, report.exit_status) == (check, "cannot", 1)
    assert str(error) in found.found
    assert found.mend


def test_a_report_reads_well_in_eighty_columns_and_steers_no_terminal() -> None:
    odd = POOR.model_copy(update={"found": "\x1b[31m" + "word " * 60, "check": "open-files"})
    text = drawn(report_of(Looked([GOOD, odd, BAD])))
    assert all(len(line.rstrip()) <= 80 for line in text.splitlines())
    assert "\x1b" not in text
    assert "do            another machine" in text or "another machine" in text
    assert text.rstrip().endswith("This machine cannot take part: system.")


# a run


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    timed = TRAINING.model_copy(update={"total_steps": 1000})
    return TinyRun(tmp_path_factory.mktemp("tiny"), timed)


def facts_of(tiny: TinyRun) -> RunFacts:
    news = {"expert-0": SlotNews("12D3KooWlead", 500)}
    return RunFacts(tiny.run, tiny.spec, tiny.spec_path, None, news)


@pytest.mark.parametrize("slot", ["expert-1", "router"])
def test_a_trial_times_the_slots_own_steps_on_noise(
    tiny: TinyRun, slot: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s, stepped, step = 0.0, list[tuple[str, int]](), Learner.step

    def timed(learner: Learner, batch: Batch) -> float:
        nonlocal now_s
        before = [one.detach().clone() for one in learner.network.parameters()]
        loss = step(learner, batch)
        assert any(not torch.equal(*pair) for pair in zip(before, learner.network.parameters(), strict=True))
        now_s += 0.125
        stepped.append((learner.slot, len(batch)))
        return loss

    monkeypatch.setattr(Learner, "step", timed)
    monkeypatch.setattr(speed_trial, "time", SimpleNamespace(monotonic=lambda: now_s))
    job = SpeedJob(run=tiny.run, slot=slot, spec_path=tiny.spec_path, trial_s=0.5, device="cpu")
    result = time_slot(job)
    # the first is not timed, and three more fill the half second
    assert stepped == [(slot, 4)] * 4
    assert result.steps == 4
    assert result.batch_clips == 4
    assert result.clips_per_s == 12 / 0.375


def room(tiny: TinyRun, settings: PeerSettings, memory_bytes: int = 8 * 10**9) -> Room:
    return Room(settings, tiny.spec, lambda: Machine(2, memory_bytes))


def test_slots_are_told_with_speed_days_and_the_time_of_an_upload(tiny: TinyRun, tmp_path: Path) -> None:
    settings = PeerSettings(data_dir=tmp_path, device="cpu")
    speeds = {"expert": SpeedResult(clips_per_s=2.0, micro_batch_clips=4), "router": SpeedResult(error="no")}
    slots = slot_outlooks(facts_of(tiny), settings, speeds, 1000.0, room(tiny, settings))
    by_name = {one.slot: one for one in slots}
    assert by_name["expert-0"].days_left == pytest.approx(500 * 4 / 2.0 / 86400)
    assert by_name["expert-1"].days_left == pytest.approx(1000 * 4 / 2.0 / 86400)
    assert by_name["expert-0"].lead == "12D3KooWlead"
    assert by_name["expert-0"].upload_s == by_name["expert-0"].checkpoint_bytes / 1000.0
    assert (by_name["router"].days_left, by_name["router"].why) == (None, "no")
    found = {one.check: one for one in judge_run(facts_of(tiny), slots, 10**10, settings)}
    assert found["run"].verdict == found["slots"].verdict == found["run-disk"].verdict == "good"
    assert (
        found["checkpoint-upload"].verdict == "poor" or found["checkpoint-upload"].numbers["upload_s"] < 600
    )
    assert "expert-0" in drawn(report_of(Looked([GOOD], slots)))


def test_the_runs_own_estimate_is_told_where_it_is_known_of_every_slot(tiny: TinyRun, tmp_path: Path) -> None:
    news = {slot: SlotNews(eta_s=86400.0 * (3 + place)) for place, slot in enumerate(tiny.spec.slots)}
    last = 3.0 + len(news) - 1
    facts = replace(facts_of(tiny), news=news)
    told = judge_run(facts, (), 10**10, PeerSettings(data_dir=tmp_path))[0]
    assert f"done in about {last:.0f} days as it goes now" in told.found
    assert told.numbers["eta_days"] == last
    news["router"] = SlotNews()
    told = judge_run(facts, (), 10**10, PeerSettings(data_dir=tmp_path))[0]
    assert "done in" not in told.found
    assert "eta_days" not in told.numbers


def test_a_machine_that_no_slot_fits_may_attest_and_a_full_disk_cannot_take_part(
    tiny: TinyRun, tmp_path: Path
) -> None:
    settings = PeerSettings(data_dir=tmp_path, device="cpu")
    small = room(tiny, settings, memory_bytes=10**9)
    slots = slot_outlooks(facts_of(tiny), settings, {}, None, small)
    found = {one.check: one for one in judge_run(facts_of(tiny), slots, 10, settings)}
    assert found["slots"].verdict == "poor"
    assert "--no-train" in found["slots"].mend
    assert found["run-disk"].verdict == "cannot"


def test_a_newer_version_among_peers_is_worth_a_note() -> None:
    behind = judge_versions(compare_versions(200, {"a": 300, "b": 300, "c": 0}, "owner"))
    assert behind.verdict == "note"
    assert "behind 0.3.0" in behind.found
    assert judge_versions(compare_versions(200, {}, "owner")).verdict == "unknown"


class Steps:
    """A learner whose steps take what a test says on a clock of its own."""

    micro_batch_clips = 2

    def __init__(self, monkeypatch: pytest.MonkeyPatch, first_s: float, clip_s: float):
        self.now_s, self.first_s, self.clip_s, self.sizes = 0.0, first_s, clip_s, list[int]()
        monkeypatch.setattr(speed_trial.time, "monotonic", lambda: self.now_s)

    def step(self, batch: Any) -> float:
        self.sizes.append(len(batch))
        self.now_s += self.first_s if len(self.sizes) == 1 else self.clip_s * len(batch)
        return 1.0


@pytest.mark.parametrize(
    ("first_s", "clip_s", "clips_per_s", "sizes"),
    [
        (0.5, 0.25, 4.0, {2, 4}),  # whole steps, without the first, which is slow
        (9.0, 1.0, 1.0, {2}),  # a whole step may not end in time
        (99.0, 1.0, 2 / 99, {2}),  # one part is all there is
    ],
)
def test_a_trial_ends_in_time_and_leaves_out_what_loading_cost(
    first_s: float, clip_s: float, clips_per_s: float, sizes: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    learner: Any = Steps(monkeypatch, first_s, clip_s)

    class Clips(list[int]):
        def part(self, start: int, stop: int) -> Clips:
            return Clips(self[start:stop])

    clips, taken_s = speed_trial._timed(learner, Clips(range(4)), 10.0)  # type: ignore[arg-type]
    assert clips / taken_s == pytest.approx(clips_per_s)
    assert set(learner.sizes) == sizes
    assert learner.now_s <= max(first_s, 14.0)
