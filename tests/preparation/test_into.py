"""Tests that clips join a run as its own were made: nothing refitted, nothing touched, nothing twice."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from paris_p2p.cli import run as cli
from paris_p2p.data.addition import FEATURES_FILE, Addition, additions_of, all_clips, listed_clips
from paris_p2p.data.clips import ClipSet
from paris_p2p.data.clusters import ClusterModel
from paris_p2p.data.prepared import Prepared
from paris_p2p.data.splits import SplitOptions, assign_added
from paris_p2p.errors import BlobError, DataError, UsageError
from paris_p2p.preparation.create import create_run
from paris_p2p.preparation.encoding import Encoder
from paris_p2p.preparation.into import IntoOptions, prepare_into
from paris_p2p.preparation.prepare import PrepareOptions, prepare
from paris_p2p.preparation.reach import CLUSTERS_FILE, centre_distances, run_features
from paris_p2p.preparation.run_networks import networks_of_run
from tests.data.videos import scene, write_video
from tests.preparation.test_create import OPTIONS as CREATE

OPTIONS = PrepareOptions(experts=2, height=16, width=16, text_tokens=8, feature_frames=1, threads=1)
INTO = IntoOptions(threads=1)


def write_scenes(folder: Path, kinds: list[int], rng_seed: int, first: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(rng_seed)
    for i, kind in enumerate(kinds, first):
        write_video(folder / f"{i:03d}.mp4", scene(kind, rng))
        (folder / f"{i:03d}.txt").write_text(f"kind {kind}, take {i}")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder of a created run of two kinds of scenes, and beside it `clips` and `more`."""
    home = tmp_path_factory.mktemp("into")
    clips = write_scenes(home / "clips", [i % 2 for i in range(40)], 0)
    prepare(clips, home / "run", OPTIONS)
    create_run(home / "run", CREATE, None)
    more = write_scenes(home / "more", [0, 1] * 6 + [2] * 3, 1, first=100)
    for name in ("004", "007"):
        shutil.copy(clips / f"{name}.mp4", more / f"again-{name}.mp4")
        (more / f"again-{name}.txt").write_text("another caption")
    return home


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """Returns a copy of the run's folder, to be added to."""
    return Path(shutil.copytree(made / "run", tmp_path / "run"))


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and "cache" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def added(made: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Addition]:
    run = Path(shutil.copytree(made / "run", tmp_path_factory.mktemp("added") / "run"))
    return run, prepare_into(made / "more", run, INTO)


def test_nothing_that_the_run_has_is_changed(made: Path, added: tuple[Path, Addition]) -> None:
    run, addition = added
    before, after = contents(made / "run"), contents(run)
    assert {name: after[name] for name in before} == before
    new = after.keys() - before.keys()
    assert all(name.startswith(("additions/", "shards/addition-001/")) for name in new)
    assert addition.is_whole(run)


def test_clips_go_to_the_runs_own_clusters_as_its_codec_and_features_see_them(
    made: Path, added: tuple[Path, Addition]
) -> None:
    run, addition = added
    of_kind = {int(clip.caption[5]): clip.cluster for clip in listed_clips(made / "run")}
    rows = list(listed_clips(run / addition.folder))
    assert all(row.cluster == of_kind[int(row.caption[5])] for row in rows if row.caption[5] != "2")
    shards = [shard for split in ("train", "gate") for shard in addition.shards_for(split)]
    prepared = Prepared.load(run)
    clips = ClipSet(
        [run / shard.path for shard in shards],
        [shard.cluster for shard in shards],
        latent=prepared.latent,
        text=prepared.text_shape,
    )
    by_caption = {row.caption: row for row in rows}
    assert len(clips) == addition.clips["train"] + addition.clips["gate"]
    networks = networks_of_run(run, prepared, OPTIONS)
    import torch

    for i in range(len(clips)):
        pixels = torch.from_numpy(by_caption[clips.caption(i)].pixels(prepared.clip))[None]
        assert torch.allclose(networks.codec.encode(pixels)[0].half().float(), clips[i].latent, atol=1e-2)
        assert clips.cluster(i) == by_caption[clips.caption(i)].cluster


def test_files_that_the_run_has_already_are_skipped_and_counted(added: tuple[Path, Addition]) -> None:
    run, addition = added
    assert addition.skipped == {"in the run already": 2}
    report = json.loads((run / addition.folder / "report.json").read_text())
    assert {skip["name"]: skip["detail"] for skip in report["skipped_files"]} == {
        "again-004.mp4": "the run has it as 004.mp4",
        "again-007.mp4": "the run has it as 007.mp4",
    }
    keys = Counter(clip.key for clip in all_clips(run))
    assert set(keys.values()) == {1}


def test_clips_of_another_world_are_named_as_far_from_all_clusters_and_others_are_not(
    added: tuple[Path, Addition],
) -> None:
    run, addition = added
    report = json.loads((run / addition.folder / "report.json").read_text())
    far = {note["name"] for note in report["noted_files"] if "far from all clusters" in note["what"]}
    assert far == {"112.mp4", "113.mp4", "114.mp4"}
    assert addition.far == len(report["far_clips"]) == 3
    assert min(report["far_clips"].values()) > addition.reach > 0
    assert "3 clips lie far from all clusters and go to the nearest" in addition.describe()


def test_far_clips_are_left_out_where_that_is_asked_for(made: Path, run: Path) -> None:
    addition = prepare_into(made / "more", run, INTO.model_copy(update={"skip_far": True}))
    assert {row.caption[5] for row in listed_clips(run / addition.folder)} == {"0", "1"}
    assert addition.far == 3
    assert "were left out" in addition.describe()


def test_the_same_call_again_returns_at_once_and_another_folder_is_another_addition(
    made: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare_into(made / "more", run, INTO)
    second = prepare_into(write_scenes(tmp_path / "third", [0, 1, 0], 7, first=300), run, INTO)
    assert [one.number for one in additions_of(run)] == [1, 2]
    before = contents(run)
    monkeypatch.setattr(Encoder, "run", lambda *_: pytest.fail("nothing is to be encoded"))
    assert prepare_into(made / "more", run, INTO) == first
    assert prepare_into(tmp_path / "third", run, INTO) == second
    assert contents(run) == before
    again = shutil.copytree(tmp_path / "third", tmp_path / "fourth")
    with pytest.raises(DataError, match="3 in the run already"):
        prepare_into(again, run, INTO)


def test_a_stopped_call_goes_on_and_makes_the_same(
    made: Path, run: Path, added: tuple[Path, Addition], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(Exception):
        pass

    def stop(self: Addition, _: Path) -> None:
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(Addition, "write", stop)
        with pytest.raises(Stop):
            prepare_into(made / "more", run, INTO)
    assert additions_of(run) == ()
    encoded = []
    whole = Encoder._encode
    monkeypatch.setattr(Encoder, "_encode", lambda self, parts: encoded.append(parts) or whole(self, parts))
    assert prepare_into(made / "more", run, INTO) == added[1]
    assert contents(run) == contents(added[0])
    assert encoded == []


def test_a_changed_codec_of_the_run_is_refused(made: Path, run: Path) -> None:
    path = run / "codec" / "pca.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(BlobError, match="is not the file that the run was created with"):
        prepare_into(made / "more", run, INTO)


def test_a_private_run_takes_clips_with_its_own_codec_and_refuses_another(made: Path, tmp_path: Path) -> None:
    run = Path(
        shutil.copytree(made / "run", tmp_path / "run", ignore=shutil.ignore_patterns("node", "*.spec"))
    )
    create_run(run, CREATE.model_copy(update={"private": True, "members_only": True}), None)
    assert prepare_into(made / "more", run, INTO).clips["train"]
    path = run / "codec" / "pca.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    (run / "additions" / "001.json").unlink()
    with pytest.raises(BlobError, match="is not the file that the run was created with"):
        prepare_into(made / "more", run, INTO)


def test_a_folder_without_a_run_takes_no_clips(made: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no run to add clips to"):
        prepare_into(made / "more", tmp_path, INTO)


def test_two_calls_at_once_do_not_take_one_number(made: Path, run: Path) -> None:
    (run / "additions").mkdir()
    with (run / "additions" / "lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="another `paris-run prepare --into"):
            prepare_into(made / "more", run, INTO)


def test_features_are_looked_at_again_where_an_older_version_kept_none(made: Path, run: Path) -> None:
    known = np.load(run / FEATURES_FILE)
    (run / FEATURES_FILE).unlink()
    prepared = Prepared.load(run)
    found = run_features(run, prepared, networks_of_run(run, prepared, OPTIONS).features, lambda *_: None)
    assert np.allclose(found, known, atol=2e-3)
    model = ClusterModel.load(run / CLUSTERS_FILE)
    labels = model.assign(model.reduce(found.astype(np.float32)))
    assert labels.tolist() == [clip.cluster for clip in listed_clips(run)]
    assert len(centre_distances(model, found)) == len(labels)


def test_clips_join_although_how_far_they_lie_is_not_known(made: Path, run: Path) -> None:
    (run / FEATURES_FILE).unlink()
    splits = run / "splits.json"
    splits.write_text(splits.read_text().replace(str(made / "clips"), str(made / "gone")))
    addition = prepare_into(made / "more", run, INTO)
    assert addition.far == 0
    assert addition.notes["how far clips lie from the clusters is not known"] == 1


def test_preparing_the_run_again_keeps_what_was_added(made: Path, run: Path) -> None:
    addition = prepare_into(made / "more", run, INTO)
    lost = Prepared.load(run).shards[0]
    (run / lost.path).unlink()
    prepare(made / "clips", run, OPTIONS)
    assert (run / lost.path).is_file()
    assert addition.is_whole(run)


def test_added_groups_stay_together_and_in_the_split_that_the_run_knows() -> None:
    known = {"old": "test"}
    clips = {"old": 5} | {f"new-{i}": 4 for i in range(50)}
    splits = assign_added(list(clips), clips, SplitOptions(), known)  # type: ignore[arg-type]
    counts = Counter(splits[group] for group in clips if group != "old")
    assert splits["old"] == "test"
    assert counts == {"train": 40, "gate": 3, "validation": 2, "test": 5}


@pytest.mark.parametrize(("groups", "held_out"), [(1, 0), (2, 0), (3, 1), (5, 1), (10, 2)])
def test_small_additions_are_mostly_trained_on_and_the_gate_comes_first(groups: int, held_out: int) -> None:
    clips = {str(i): 3 for i in range(groups)}
    splits = Counter(assign_added(list(clips), clips, SplitOptions(), {}).values())
    assert splits["train"] == groups - held_out
    assert splits["gate"] == min(1, held_out)


def test_the_command_adds_and_refuses_what_is_the_runs_own(
    made: Path, added: tuple[Path, Addition], run: Path
) -> None:
    def said(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(cli.app, ["prepare", str(made / "more"), *words])
        return result.exit_code, f"{result.output} {result.exception}"

    code, text = said("--into", str(run), "--threads", "1")
    assert code == 0
    assert "addition 1" in text
    assert f"paris-run say {run} add-clips" in " ".join(text.split())
    for words, why in (
        (("--into", str(run), "--frames", "8", "-k", "2"), "--experts, --frames cannot go with --into"),
        (("--into", str(run), "--out", str(run)), "give --out or --into, not both"),
        (("--skip-far", "--out", str(run)), "--skip-far goes with --into"),
        ((), "give --out"),
    ):
        code, text = said(*words)
        assert code != 0
        assert why in text
