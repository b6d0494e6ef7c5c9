"""Tests that a slot's lineage goes on across notices that change its clips, the same on every machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from paris_p2p.data.batches import ClipOrder, Draws, make_batch
from paris_p2p.data.clips import ClipSet
from paris_p2p.device import Device
from paris_p2p.errors import CheckpointError, DataError
from paris_p2p.model.checkpoint import write_checkpoint
from paris_p2p.records import BlobRef
from paris_p2p.run_file import write_effective
from paris_p2p.spec import RunSpec, ShardRef
from paris_p2p.training.gate import check_card
from paris_p2p.training.gate_losses import gate_batch
from paris_p2p.training.learner import Learner
from paris_p2p.training.messages import CheckpointReady, ShardSpan, TrainJob
from paris_p2p.training.objective import read_spec
from paris_p2p.training.segments import Segment, begin_segments, order_of, segments_note
from paris_p2p.training.train import train
from tests.data.shards import write_shard
from tests.made.tiny_run import TinyRun, checkpoint_of, train_here

BATCH = 4
SLOTS = ("expert-1", "router")


@dataclass
class Shard:
    """Is one train shard of a run that grows."""

    path: Path
    cluster: int
    clips: int
    since: int = 0
    until: int = 0


class GrownRun:
    """Is a tiny run: notice 2 adds clips of both clusters, and notice 5 takes a shard out."""

    def __init__(self, folder: Path) -> None:
        self.tiny = TinyRun(folder)
        first = [Shard(path, k, 10, until=5 * (k == 0)) for k, path in enumerate(self.tiny.shards["train"])]
        more = [
            Shard(write_shard(folder / "more" / f"{k}.tar", k, clips, 90), k, clips, since=2)
            for k, clips in ((1, 7), (0, 3))
        ]
        last = [Shard(write_shard(folder / "more" / "last.tar", 1, 5, 200), 1, 5, since=5)]
        self.shards = first + more + last

    def mine(self, slot: str, notices: int | None = None) -> list[Shard]:
        found = [shard for shard in self.shards if slot in ("router", f"expert-{shard.cluster}")]
        if notices is None:
            return found
        return [s for s in found if s.since <= notices and not 0 < s.until <= notices]

    def spec(self, notices: int) -> RunSpec:
        refs = tuple(
            ShardRef(blob=BlobRef(id="0" * 64, size_bytes=1), clips=shard.clips, cluster=shard.cluster)
            for shard in self.mine("router", notices)
        )
        return self.tiny.spec.model_copy(update={"owner": self._owner(), "train_shards": refs})

    def _owner(self) -> str:
        from paris_p2p.run_file import read_run

        return read_run(self.tiny.spec_path, mend="").record.owner

    def job(self, slot: str, notices: int, *, out: str, **changes: Any) -> TrainJob:
        effective = self.tiny.folder / f"effective-{notices}.json"
        write_effective(effective, self.spec(notices))
        here = self.mine(slot, notices)
        grown = {
            "notices": notices,
            "effective_path": effective,
            "shard_paths": tuple(shard.path for shard in here),
            "shard_clusters": tuple(shard.cluster for shard in here),
            "spans": spans(self.mine(slot)),
        }
        return self.tiny.train_job(slot, out=out, **(grown | changes))

    def trained(self, slot: str, notices: int, until: int, *, out: str, **changes: Any) -> CheckpointReady:
        return checkpoint_of(train_here(self.job(slot, notices, out=out, max_steps=until, **changes)))


def spans(shards: Sequence[Shard]) -> tuple[ShardSpan, ...]:
    return tuple(ShardSpan(clips=s.clips, since=s.since, until=s.until) for s in shards)


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> GrownRun:
    return GrownRun(tmp_path_factory.mktemp("grown"))


def never_stopping(grown: GrownRun, slot: str, until: dict[int, int], folder: Path) -> Path:
    """Trains one learner in one piece, whose clips change under way; returns its resume state.

    `until` says of each notice number until which step its clips are trained on.
    """
    tiny, draws = grown.tiny, Draws.of(grown.tiny.run, slot)
    learner = Learner(tiny.run, tiny.spec, slot, Device(torch.device("cpu"), bf16=False))
    segments: tuple[Segment, ...] = ()
    for notices, steps in until.items():
        here = grown.mine(slot, notices)
        clips = ClipSet([shard.path for shard in here], [shard.cluster for shard in here])
        segments = (*segments, Segment(learner.clips, notices, len(clips)))
        order = order_of(draws, spans(grown.mine(slot)), segments, len(clips))
        while learner.steps < steps:
            learner.step(make_batch(clips, order, draws, learner.clips, BATCH))
    learner.notes = segments_note(segments, spans(grown.mine(slot)))
    folder.mkdir(exist_ok=True)
    return write_checkpoint(folder, learner.state())[1]


@pytest.mark.parametrize("slot", SLOTS)
def test_resuming_equals_not_stopping_across_changes_bit_for_bit(
    grown: GrownRun, slot: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "paris_p2p.training.job_device.pick_device", lambda _: Device(torch.device("cpu"), bf16=False)
    )
    whole = never_stopping(grown, slot, {0: 3, 2: 9, 5: 13}, grown.tiny.folder / f"whole-{slot}")
    plan = [(0, 2), (0, 3), (2, 4), (2, 7), (3, 8), (4, 9), (5, 10), (6, 13)]
    resume: dict[str, Any] = {}
    for i, (notices, until) in enumerate(plan):
        ready = grown.trained(slot, notices, until, out=f"{slot}-{i}", **resume)
        resume = grown.tiny.resume(ready)
    assert ready.resume_path.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("slot", SLOTS)
def test_every_clip_of_before_and_after_comes_once_in_the_pass_that_runs_at_the_change(
    grown: GrownRun, slot: str
) -> None:
    before, after = (sum(s.clips for s in grown.mine(slot, n)) for n in (0, 2))
    segments = (Segment(0, 0, before), Segment(2 * BATCH, 2, after))
    draws = Draws.of(grown.tiny.run, slot)
    seen = {ClipOrder(draws, before)[i] for i in range(2 * BATCH)}  # old shards come first in both sets
    order = order_of(draws, spans(grown.mine(slot)), segments, after)
    rest = [order[2 * BATCH + i] for i in range(after - len(seen))]
    assert sorted(seen | set(rest)) == list(range(after))


def test_a_run_without_changes_keeps_no_segments_and_its_bytes(grown: GrownRun) -> None:
    plain = checkpoint_of(train_here(grown.tiny.train_job(out="plain", max_steps=4)))
    known = grown.trained("expert-1", 0, 4, out="known")
    assert known.resume_path.read_bytes() == plain.resume_path.read_bytes()
    with safe_open(plain.resume_path, framework="pt") as file:
        assert "segments" not in file.metadata()


def test_a_slot_that_begins_after_a_change_has_one_segment(grown: GrownRun) -> None:
    ready = grown.trained("expert-1", 2, 2, out="late")
    with safe_open(ready.resume_path, framework="pt") as file:
        assert file.metadata()["segments"] == "0:2:17"


def test_going_back_before_a_change_meets_it_anew_and_an_unused_segment_is_left_out(grown: GrownRun) -> None:
    old = grown.tiny.resume(grown.trained("expert-1", 0, 2, out="back"))
    job = grown.job("expert-1", 2, out="forth", **old)
    assert begin_segments(job, BATCH) == (Segment(0, 0, 10), Segment(8, 2, 17))
    unused = grown.tiny.resume(grown.trained("expert-1", 2, 3, out="on", **old))
    again = grown.job("expert-1", 5, out="on-2", **(unused | {"resume_clips": 12}))
    assert begin_segments(again, BATCH)[-1] == Segment(12, 5, 22)


def test_a_job_whose_spans_are_not_the_runs_shards_is_refused(grown: GrownRun) -> None:
    wrong = tuple(span.model_copy(update={"clips": span.clips + 1}) for span in spans(grown.mine("expert-1")))
    with pytest.raises(DataError, match="the job says that expert-1 has shards of"):
        train(grown.job("expert-1", 2, out="wrong", spans=wrong), lambda _: None, lambda: None)


def test_a_card_is_judged_on_the_gate_shards_of_the_notice_that_it_names(
    grown: GrownRun, ready: CheckpointReady
) -> None:
    tiny = grown.tiny
    more = write_shard(tiny.folder / "more" / "gate.tar", 1, 4, 700)
    spec = grown.spec(2)
    ref = ShardRef(blob=BlobRef(id="1" * 64, size_bytes=1), clips=4, cluster=1)
    effective = tiny.folder / "more-gate.json"
    write_effective(effective, spec.model_copy(update={"gate_shards": (*spec.gate_shards, ref)}))
    train = grown.job("expert-1", 2, out="gate")
    facts = {"notices": 2, "spans": train.spans, "effective_path": train.effective_path}
    old = check_card(tiny.gate_job(ready, **facts))
    assert old.gate_clips == 12  # as many as are asked for: six clips come twice
    paths, more_facts = (*tiny.gate_job(ready).shard_paths, more), facts | {"effective_path": effective}
    judged = tiny.gate_job(ready, shard_paths=paths, shard_clusters=(1, 1), **more_facts)
    batch, _ = gate_batch(judged, read_spec(judged))
    seen = {latent.numpy().tobytes() for latent in batch.latent}
    assert len(seen) == 10
    assert check_card(judged).ok
    with pytest.raises(DataError, match="the job has 2 shards, the run 1 for expert-1"):
        check_card(judged.model_copy(update={"effective_path": train.effective_path}))


def noted(grown: GrownRun, ready: CheckpointReady, note: str, name: str) -> Path:
    path = grown.tiny.folder / f"{name}.safetensors"
    with safe_open(ready.resume_path, framework="pt") as file:
        metadata = dict(file.metadata()) | {"segments": note}
    save_file(load_file(ready.resume_path), path, metadata)
    return path


@pytest.fixture(scope="module")
def ready(grown: GrownRun) -> CheckpointReady:
    before = grown.trained("expert-1", 0, 2, out="ready-0")
    return grown.trained("expert-1", 2, 20, out="ready-2", **grown.tiny.resume(before))


@pytest.mark.parametrize(
    ("note", "why"),
    [
        ("0:0:10,8:2:17,", "cannot be read"),
        ("x", "cannot be read"),
        ("4:0:10,8:2:17", "do not go from clip 0"),
        ("0:0:10,84:2:17", "do not go from clip 0"),
        ("0:0:10,8:3:17", "do not go from clip 0"),
        ("0:2:17,8:0:10", "do not ascend"),
        ("0:0:10,0:2:17", "do not ascend"),
        ("0:0:10,7:2:17", "a segment from clip 7"),
        ("0:0:10,8:2:16", "with 16 clips"),
        ("0:1:10", "was trained on the clips of 1"),
        (",".join(["0:0:10"] * 5000), "cannot be read"),
    ],
)
def test_the_gate_refuses_segments_that_no_lineage_can_have(
    grown: GrownRun, ready: CheckpointReady, note: str, why: str
) -> None:
    job = grown.job("expert-1", 2, out="gate")
    facts = {"notices": 2, "spans": job.spans, "effective_path": job.effective_path}
    good = check_card(grown.tiny.gate_job(ready, **facts))
    assert good.ok, good.reason
    forged = ready.model_copy(update={"resume_path": noted(grown, ready, note, "forged")})
    verdict = check_card(grown.tiny.gate_job(forged, **facts))
    assert not verdict.ok
    assert verdict.code == "malformed"
    assert why in verdict.reason
    if "was trained on" not in why:  # which a successor would only go on from
        going = grown.tiny.resume(forged)
        with pytest.raises(CheckpointError, match=why):
            begin_segments(grown.job("expert-1", 2, out="gate", **going), BATCH)


def test_segments_where_no_notice_changed_the_clips_are_refused(
    grown: GrownRun, ready: CheckpointReady
) -> None:
    verdict = check_card(grown.tiny.gate_job(ready))
    assert verdict.code == "malformed"
