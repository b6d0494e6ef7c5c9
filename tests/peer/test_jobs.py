"""What a peer fetches to train a slot, and which of it is for what."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from paris_p2p.peer.jobs import clip_blobs, train_job
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.training.messages import TrainJob
from tests.made.tiny_run import TinyRun


def job_of(tiny: TinyRun, slot: str, paths: list[Path]) -> TrainJob:
    state = SimpleNamespace(spec_at=lambda number: tiny.spec, number=0)
    node: Any = SimpleNamespace(run=tiny.run, state=state, spec_file=tiny.spec_path)
    return train_job(node, slot, 0, PeerSettings(data_dir=tiny.folder), paths, tiny.folder)


def test_a_routers_lead_fetches_its_clips_and_after_them_those_it_is_calibrated_on(tmp_path: Path) -> None:
    tiny = TinyRun(tmp_path, calibration_clips=3)
    refs = clip_blobs(tiny.spec, "router")
    shards = (*tiny.spec.train_shards, *tiny.spec.calibration_shards)
    assert refs == tuple(shard.blob for shard in shards)
    job = job_of(tiny, "router", [Path(str(number)) for number in range(len(refs))])
    assert job.shard_paths == (Path("0"), Path("1"))
    assert job.calibration_shard_paths == (Path("2"), Path("3"))


def test_an_expert_and_a_run_without_such_clips_fetch_none(tmp_path: Path) -> None:
    with_clips = TinyRun(tmp_path / "with", calibration_clips=3)
    assert clip_blobs(with_clips.spec, "expert-1") == (with_clips.spec.train_shards[1].blob,)
    tiny = TinyRun(tmp_path / "without")
    for slot, count in (("router", 2), ("expert-1", 1)):
        paths = [Path(str(number)) for number in range(count)]
        assert len(clip_blobs(tiny.spec, slot)) == count
        assert job_of(tiny, slot, paths).calibration_shard_paths == ()
