"""Tests that an owner's clips are split and given away in new shards, whole, and the same each time."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from paris_p2p.data.addition import FEATURES_FILE, all_clips
from paris_p2p.data.clips import ClipSet
from paris_p2p.data.clusters import ClusterModel
from paris_p2p.data.shards import StoredMembers, stored_clips
from paris_p2p.envelope import Envelope, seal
from paris_p2p.errors import DataError, MissingBlobError, UsageError
from paris_p2p.identity import Identity
from paris_p2p.owner_records import MAX_SHARDS, AddExpert, DropExpert, NoticeRecord
from paris_p2p.preparation.create import create_run, load_run
from paris_p2p.preparation.into import prepare_into
from paris_p2p.preparation.owner_shards import OwnerShards
from paris_p2p.preparation.owner_words import OwnersFolder
from paris_p2p.preparation.prepare import prepare
from paris_p2p.preparation.reach import CLUSTERS_FILE
from paris_p2p.preparation.regrouping import Regrouped, drop_expert, split_expert
from paris_p2p.rules.growth import grown
from paris_p2p.spec import RunSpec
from tests.cli.test_say import say
from tests.data.shards import write_tar
from tests.preparation.test_create import OPTIONS as CREATE
from tests.preparation.test_into import INTO, OPTIONS, write_scenes

Regroup = Callable[..., Regrouped]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder of a run of two experts whose clips are of three kinds, so that one has two."""
    home = tmp_path_factory.mktemp("regrouping")
    clips = write_scenes(home / "clips", [i % 3 for i in range(54)], 0)
    prepare(clips, home / "run", OPTIONS)
    create_run(home / "run", CREATE, None)
    return home / "run"


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


def kinds_by_cluster(folder: Path, spec: RunSpec, split: str = "train") -> dict[int, Counter[str]]:
    """Returns what each cluster's clips are, by their captions, as they lie in the owner's node's store."""
    run, found = load_run(folder), defaultdict[int, Counter[str]](Counter)
    refs = spec.train_shards if split == "train" else spec.gate_shards
    with OwnerShards(folder, run).opened(refs) as paths:
        for ref, path in zip(refs, paths, strict=True):
            clips = ClipSet([path], [ref.cluster], latent=spec.latent, text=spec.text_shape)
            assert len(clips) == ref.clips
            found[ref.cluster] += Counter(clip.caption.split(",")[0] for clip in clips)
            assert {json.loads(clip.info)["cluster"] for clip in stored_clips(path)} == {ref.cluster}
    return dict(found)


def moved(folder: Path, spec: RunSpec, made: Regrouped) -> list[tuple[int, StoredMembers]]:
    """Returns the clips in the shards that a change names, with their clusters."""
    named = {shard.blob.id for change in made.changes[1:] for shard in change.shards}  # type: ignore[union-attr]
    refs = [ref for ref in (*spec.train_shards, *spec.gate_shards) if ref.blob.id in named]
    with OwnerShards(folder, load_run(folder)).opened(refs) as paths:
        return [
            (ref.cluster, clip) for ref, path in zip(refs, paths, strict=True) for clip in stored_clips(path)
        ]


def crowded(spec: RunSpec, folder: Path) -> int:
    """Returns the expert that has two kinds."""
    return next(k for k, kinds in kinds_by_cluster(folder, spec).items() if len(kinds) == 2)


def test_a_cluster_of_two_kinds_is_split_into_one_of_each_and_no_clip_is_lost(folder: Path) -> None:
    run = load_run(folder)
    before, expert = run.record, crowded(run.record, folder)
    made = split_expert(folder, run, before, expert)
    assert made.changes[0] == AddExpert(parent=expert, child=2, parts=len(made.changes) - 1)
    after = grown(before, made.changes)
    assert after.parents == (expert,)
    for split in ("train", "gate"):
        old, new = (kinds_by_cluster(folder, spec, split) for spec in (before, after))
        assert new[expert] + new[2] == old[expert]
        assert new[1 - expert] == old[1 - expert]
        assert len(new[expert]) == len(new[2]) == 1
    gets = sum(kinds_by_cluster(folder, after)[2].values())
    assert f"expert-2 gets {gets} train and" in made.account


def test_the_same_call_makes_the_same_changes_and_nothing_is_another_before_it_is_settled(
    folder: Path,
) -> None:
    run = load_run(folder)
    expert, clusters = crowded(run.record, folder), (folder / CLUSTERS_FILE).read_bytes()
    one, again = (split_expert(folder, run, run.record, expert) for _ in range(2))
    assert one == again
    assert (folder / CLUSTERS_FILE).read_bytes() == clusters
    one.settle()
    assert set(ClusterModel.load(folder / CLUSTERS_FILE).merged.tolist()) == {0, 1, 2}


def test_clips_that_are_prepared_after_a_split_go_to_the_child_where_they_are_like_its_own(
    folder: Path, tmp_path: Path
) -> None:
    run = load_run(folder)
    made = split_expert(folder, run, run.record, crowded(run.record, folder))
    made.settle()
    (kind,) = kinds_by_cluster(folder, grown(run.record, made.changes))[2]
    number = int(kind.removeprefix("kind "))
    more = write_scenes(tmp_path / "more", [number] * 4, 5, first=300)
    addition = prepare_into(more, folder, INTO)
    assert [row.cluster for row in addition.clusters if sum(row.clips.values())] == [2]


def test_a_dropped_experts_clips_go_to_the_nearest_of_the_others_and_none_is_lost(folder: Path) -> None:
    run = load_run(folder)
    expert = crowded(run.record, folder)
    split = split_expert(folder, run, run.record, expert)
    split.settle()
    with_child = grown(run.record, split.changes)
    made = drop_expert(folder, run, with_child, 2)
    assert made.changes[0] == DropExpert(expert=2, parts=len(made.changes) - 1)
    after = grown(with_child, made.changes)
    for name in ("train", "gate"):
        old, new = (kinds_by_cluster(folder, spec, name) for spec in (run.record, after))
        assert new.keys() == {0, 1}
        assert new[0] + new[1] == old[0] + old[1]
        assert sum(new[expert].values()) > sum(old[expert].values()) / 2  # its parent's are near to it
    made.settle()
    less = ClusterModel.load(folder / CLUSTERS_FILE)
    assert set(less.merged.tolist()) == {0, 1}
    labels = {clip.key: k for k, clip in moved(folder, after, made)}
    rows = [row for row, clip in enumerate(all_clips(folder)) if clip.key in labels]
    features = np.load(folder / FEATURES_FILE)[rows].astype(np.float32)
    keys = [clip.key for clip in all_clips(folder) if clip.key in labels]
    assert less.assign(less.reduce(features)).tolist() == [labels[key] for key in keys]


def test_a_stopped_call_whose_notices_were_told_is_gone_on_from(folder: Path) -> None:
    run = load_run(folder)
    expert = crowded(run.record, folder)
    told = grown(run.record, split_expert(folder, run, run.record, expert).changes)  # and never settled
    assert grown(told, drop_expert(folder, run, told, 1 - expert).changes).slots[:-1] == (
        f"expert-{expert}",
        "expert-2",
    )


def test_a_folder_of_a_version_that_stored_no_features_looks_at_its_clips_again(folder: Path) -> None:
    run = load_run(folder)
    expert = crowded(run.record, folder)
    one = split_expert(folder, run, run.record, expert)
    (folder / FEATURES_FILE).unlink()
    again = split_expert(folder, run, run.record, expert)
    assert grown(run.record, again.changes).train_shards == grown(run.record, one.changes).train_shards


def test_every_change_fits_into_a_notice(folder: Path) -> None:
    run = load_run(folder)
    made = split_expert(folder, run, run.record, crowded(run.record, folder))
    shards = made.changes[1].shards  # type: ignore[union-attr]
    full = made.changes[1].model_copy(update={"shards": (shards * MAX_SHARDS)[:MAX_SHARDS]})
    owner = Identity.from_private_bytes(bytes(32))
    for change in (*made.changes, full):
        fields = {"run": run.id, "previous": run.id, "issued_at": 1.0, "expires_at": 2.0}
        notice: Envelope[NoticeRecord] = seal(owner, NoticeRecord(seq=1 << 13, change=change, **fields))
        assert len(notice.data) <= 2048


@pytest.mark.parametrize(
    ("regroup", "expert", "words"),
    [(split_expert, 2, "there is no expert-2 to split"), (drop_expert, 5, "there is no expert-5")],
)
def test_an_expert_that_is_not_there_is_refused_before_anything_is_read(
    folder: Path, regroup: Regroup, expert: int, words: str
) -> None:
    run = load_run(folder)
    with pytest.raises(UsageError, match=words):
        regroup(folder, run, run.record, expert)


def test_the_only_expert_is_not_dropped(folder: Path) -> None:
    run = load_run(folder)
    one = grown(run.record, [DropExpert(expert=0)])
    with pytest.raises(UsageError, match="the only one left"):
        drop_expert(folder, run, one, 1)


def test_clips_that_no_list_has_and_shards_that_are_gone_are_told(folder: Path) -> None:
    run = load_run(folder)
    lists = folder / "splits.json"
    clips = json.loads(lists.read_text())["clips"]
    lists.write_text(json.dumps({"clips": [clip for clip in clips if clip["cluster"] != 0]}))
    np.save(folder / FEATURES_FILE, np.zeros((sum(1 for _ in all_clips(folder)), 4), np.float16))
    with pytest.raises(DataError, match=r"clips of expert-0, .* none of the lists"):
        split_expert(folder, run, run.record, 0)
    shutil.rmtree(folder / "node" / "blobs")
    with pytest.raises(MissingBlobError, match="is not on this disk"):
        split_expert(folder, run, run.record, 0)


def test_a_shard_is_read_member_by_member_and_one_that_is_no_clip_is_named(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [("a.json", b"{}"), ("a.safetensors", b"x"), ("b.json", b"{}")])
    clips = stored_clips(path)
    assert next(clips) == StoredMembers("a", b"x", b"{}")
    with pytest.raises(DataError, match="'b' is no clip; it has json"):
        next(clips)


def test_the_command_line_splits_and_drops_and_keeps_the_folders_clusters_in_step(folder: Path) -> None:
    run = load_run(folder)
    expert = crowded(run.record, folder)
    would = say(folder, "add-expert", "--split", f"expert-{expert}", "--dry-run")
    assert "would say: notice 1, owner, " in would
    assert set(ClusterModel.load(folder / CLUSTERS_FILE).merged.tolist()) == {0, 1}
    said = say(folder, "add-expert", "--split", f"expert-{expert}")
    assert f"split expert-{expert}: expert-2 starts from it" in said
    assert f"expert-{expert} is split: " in said
    state = OwnersFolder(folder).known.state(time.time())
    assert state.spec.parents == (expert,)
    assert set(ClusterModel.load(folder / CLUSTERS_FILE).merged.tolist()) == {0, 1, 2}
    assert "took expert-2 out of the mixture" in say(folder, "drop-expert", "expert-2")
    after = OwnersFolder(folder).known.state(time.time()).spec
    assert (after.dropped_experts, set(kinds_by_cluster(folder, after))) == ((2,), {0, 1})
    assert set(ClusterModel.load(folder / CLUSTERS_FILE).merged.tolist()) == {0, 1}
    for words, why in (
        (("add-clips",), "has no addition; prepare more clips"),
        (("add-expert", "--split", "expert-2"), "there is no expert-2 to split"),
        (("add-expert", "--split", "router"), "the router is no expert"),
    ):
        assert why in say(folder, *words, fails=True)
