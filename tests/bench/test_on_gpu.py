"""What the GPU's measurement is made of, as far as it needs no GPU and no process of its own."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bench.on_gpu.__main__ import PARTS, STAGES
from bench.on_gpu.findings import Findings, read_findings, write_results
from bench.on_gpu.made import MadeRun
from bench.on_gpu.processes import say_of
from bench.on_gpu.setting import FULL, QUICK, Setting
from bench.on_gpu.training import distance, limits, warm
from bench.on_gpu.using import MOST_DB, psnr_db
from paris_p2p.training.objective import open_clips


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(tmp_path, "cpu", quick=True, end_at=time.time() + 60)


@pytest.fixture
def findings(tmp_path: Path) -> Findings:
    return Findings("some", tmp_path / "part.json")


def test_every_part_has_its_stage_and_the_last_may_take_the_whole_time() -> None:
    assert sorted(name for names, _ in STAGES for name in names) == sorted(PARTS)
    shares = [share for _, share in STAGES]
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_a_run_is_made_again_as_it_was_and_its_clips_are_those_of_its_spec(tmp_path: Path) -> None:
    one, other = (MadeRun(tmp_path / name, QUICK.compared, "nano") for name in ("one", "other"))
    assert one.run == other.run == MadeRun(tmp_path / "one", QUICK.compared, "nano").run
    clips = open_clips(one.train_job("expert-1", "out", "cpu"), one.spec)
    assert len(clips) == QUICK.compared.train_clips
    assert 0.9 < float(np.std(np.stack([clip.latent for clip in clips]).astype(np.float32))) < 1.2


def test_presets_of_one_size_share_their_clips(setting: Setting) -> None:
    made = [setting.timed_run(preset) for preset in QUICK.timed_presets]
    assert made[0].shards == made[1].shards
    assert made[0].run != made[1].run


def test_what_raises_is_a_finding_and_the_part_goes_on(findings: Findings) -> None:
    with findings.going_on("a step"):
        raise ValueError("no such kernel")
    findings.add("another", "fine", ok=True, clips_per_s=2.5)
    off, fine = read_findings(findings.path)
    assert (off.ok, off.result) == (False, "raised ValueError: no such kernel")
    assert (fine.ok, fine.numbers) == (True, {"clips_per_s": 2.5})


def test_results_hold_all_findings(findings: Findings, tmp_path: Path) -> None:
    findings.add("one", "1", ok=None)
    write_results(tmp_path / "results.json", {"device": "cpu"}, findings.all)
    read = json.loads((tmp_path / "results.json").read_text())
    assert read["about"] == {"device": "cpu"}
    assert [found["what"] for found in read["findings"]] == ["one"]


def test_the_distance_of_two_states_is_the_largest_relative_one(tmp_path: Path) -> None:
    state = {"a": torch.tensor([4.0, -2.0]), "b": torch.tensor([0.5])}
    save_file(state, tmp_path / "one")
    save_file(state | {"b": torch.tensor([0.25])}, tmp_path / "other")
    assert distance(tmp_path / "one", tmp_path / "one") == 0
    assert distance(tmp_path / "one", tmp_path / "other") == 0.5


def test_equal_clips_are_as_near_as_can_be_and_others_by_their_error() -> None:
    black = np.zeros((1, 2, 4, 4, 3), np.uint8)
    assert psnr_db(black, black) == MOST_DB
    assert psnr_db(black, black + 10) == pytest.approx(10 * math.log10(255**2 / 100))


def test_a_log_says_which_block_was_not_compiled_and_which_sum_has_no_order(tmp_path: Path) -> None:
    log = tmp_path / "trainer.log"
    log.write_text(
        "WON'T CONVERT forward block.py line 1\n"
        "UserWarning: scatter_add_cuda does not have a deterministic implementation, but you set …\n"
    )
    assert say_of(log) == ["a block was not compiled", "not repeatable: scatter_add_cuda"]
    assert say_of(tmp_path / "none.log") == []


def test_what_needs_a_gpu_says_that_there_is_none(setting: Setting, findings: Findings) -> None:
    for part in (limits, warm):
        part(setting, findings)
    assert [found.ok for found in findings.all] == [None, None]
    assert all("not tried" in found.result for found in findings.all)


def test_the_large_sizes_are_larger_in_everything() -> None:
    for name in ("compared", "timed"):
        large, small = getattr(FULL, name), getattr(QUICK, name)
        assert math.prod(large.latent.shape) > math.prod(small.latent.shape)
        assert large.train_clips >= large.batch_clips
