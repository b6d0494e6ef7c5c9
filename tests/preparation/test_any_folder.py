"""Folders as people have them, through the whole of prepare, with the right values."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Dinov2Config, Dinov2Model

from paris_p2p.codec.video import load_codec
from paris_p2p.data.clips import ClipSet
from paris_p2p.data.prepared import Prepared, SplitClip, split_clips
from paris_p2p.errors import DataError, PresetError, UsageError
from paris_p2p.preparation import clustering, encoding
from paris_p2p.preparation import prepare as prepare_room
from paris_p2p.preparation.prepare import PrepareOptions, prepare
from tests.data import odd_videos as odd
from tests.data.test_scenes import film
from tests.data.videos import counting, scene, write_video

SPLITS = ("train", "gate", "validation", "test")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> PrepareOptions:
    """Returns options with a network of random weights in place of EfficientNet."""
    folder = tmp_path_factory.mktemp("features") / "random"
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    Dinov2Model(config).save_pretrained(folder)
    return PrepareOptions(
        height=16, width=16, text_tokens=8, feature_frames=1, threads=1, features=f"transformers:{folder}"
    )


def all_clips(out: Path) -> list[SplitClip]:
    return [clip for split in SPLITS for clip in split_clips(out, split)]


def report(out: Path) -> dict:
    return json.loads((out / "report.json").read_text())


def noted(out: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for note in report(out)["noted_files"]:
        found.setdefault(note["what"], []).append(note["name"])
    return found


def each_checked(result: Prepared) -> bool:
    return all(row.clips["train"] > 0 and row.clips["gate"] > 0 for row in result.clusters)


def write_film(path: Path, scene_frames: list[int]) -> Path:
    odd.encode(str(path), film(scene_frames, 32), "libx264", "yuv420p", 8, {"qp": "4"}, gop=24)
    return path


FILM = [120, 40, 90, 150, 60, 100, 80]  # 80 s, 80 clips of a second


def test_several_threads_on_one_film_give_the_same_bytes(from_film, options, tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "PARTS_AT_ONCE", 3)
    folder, result = from_film
    shutil.copytree(folder, tmp_path / "film", ignore=shutil.ignore_patterns("out"))
    assert (
        prepare(tmp_path / "film", tmp_path / "out", options.model_copy(update={"threads": 3})).clips
        == result.clips
    )
    for shard in result.shards:
        assert (tmp_path / "out" / shard.path).read_bytes() == (folder / "out" / shard.path).read_bytes()


@pytest.fixture(scope="module")
def from_film(tmp_path_factory, options) -> tuple[Path, Prepared]:
    folder = tmp_path_factory.mktemp("film")
    write_film(folder / "film.mp4", FILM).with_suffix(".txt").write_text("a long film")
    return folder, prepare(folder, folder / "out", options)


def test_one_long_film_is_parted_into_scenes_that_splits_keep_apart(from_film):
    folder, result = from_film
    clips = all_clips(folder / "out")
    assert result.experts == 2
    assert each_checked(result)
    assert result.files == 1
    assert "scenes and parts of 1 video" in result.describe()
    assert all(result.clips[split] > 0 for split in SPLITS)
    assert result.clips["train"] > sum(result.clips.values()) // 2
    cuts_s = np.cumsum(FILM)[:-1] / 8
    for clip in clips:
        assert not any(clip.start_s + 0.05 < cut_s < clip.start_s + 0.95 for cut_s in cuts_s), (
            "a clip crosses a cut"
        )
    held = [clip for clip in clips if clip.split != "train"]
    for one in (clip for clip in clips if clip.split == "train"):
        for other in held:
            same = not any(
                min(one.start_s, other.start_s) + 0.5 < cut_s <= max(one.start_s, other.start_s)
                for cut_s in cuts_s
            )
            assert not same or abs(one.start_s - other.start_s) >= 1.9, (
                "a held-out clip follows a train clip at once"
            )


def test_what_was_parted_and_left_out_of_a_film_is_reported(from_film):
    folder, result = from_film
    told = noted(folder / "out")
    assert told["long video parted into scenes"] == ["film.mp4"]
    assert told["clips next to another split's left out"] == ["film.mp4"]
    assert told["2 experts chosen for so many clips"]
    held = sum(result.clips[split] for split in SPLITS[1:])
    near = f"{held} of {held} held-out clips are of videos that are trained on too"
    near += ": numbers look better than on new videos"
    assert near in told
    assert f"note: {near}" in result.describe()
    assert set(result.notes) == set(told)


def test_a_clip_of_a_film_is_decoded_again_as_it_was_encoded(from_film):
    folder, result = from_film
    out = folder / "out"
    codec = load_codec(result.codec.name, out / "codec")
    shards = result.shards_for("test")
    stored = ClipSet([out / shard.path for shard in shards], [shard.cluster for shard in shards])
    again = [
        codec.encode(torch.from_numpy(clip.pixels(result.clip))[None])[0] for clip in split_clips(out, "test")
    ]
    for clip in stored:
        assert min(float((latent - clip.latent).abs().max()) for latent in again) < 0.02


@pytest.mark.parametrize(("clips_per_video", "sources"), [(64, 8), (1, 16)])
def test_no_shot_of_eight_lies_in_two_splits_whether_its_video_is_read_in_parts_or_not(
    tmp_path, options, clips_per_video, sources
):
    rng = np.random.default_rng(0)
    for i in range(8):
        shot = scene(i % 2, rng, frames=32)
        write_video(tmp_path / f"{i}.mp4", shot).with_suffix(".txt").write_text(f"shot {i}")
    wished = {"frames": 16, "clips_per_video": clips_per_video}
    result = prepare(tmp_path, tmp_path / "out", options.model_copy(update=wished))
    assert sum(result.clips.values()) == 16
    assert (sum(result.sources.values()), result.files) == (sources, 8)
    splits = {(clip.source, clip.split) for clip in all_clips(tmp_path / "out")}
    assert len(splits) == 8
    assert not any("trained on too" in what for what in result.notes)


def test_a_film_in_one_shot_is_parted_by_time(tmp_path, options):
    write_film(tmp_path / "shot.mp4", [320]).with_suffix(".txt").write_text("one shot")
    result = prepare(tmp_path, tmp_path / "out", options)
    assert each_checked(result)
    assert sum(result.clips.values()) >= 25


@pytest.mark.parametrize("kind", ["srt", "vtt", "csv"])
def test_each_clip_of_a_film_has_the_caption_of_its_time(tmp_path, options, kind):
    write_film(tmp_path / "film.mp4", FILM)
    cues = [(0.0, 30.0, "the beginning"), (30.0, 55.0, "the middle"), (60.0, 80.0, "the end")]
    clock = "00:00:{:06.3f}".format
    if kind == "csv":
        rows = [f'film.mp4,{start},{end},"{words}"' for start, end, words in cues[:2]] + [
            'film.mp4,1:00,,"the end"'
        ]
        (tmp_path / "captions.csv").write_text("\n".join(["file,start,end,caption", *rows]))
    else:
        blocks = [f"{clock(a)} --> {clock(b) if b < 60 else '00:01:20.000'}\n{c}\n" for a, b, c in cues[:2]]
        blocks.append("00:01:00.000 --> 00:01:20.000\nthe end\n")
        text = "\n".join(f"{i}\n{block}" for i, block in enumerate(blocks, 1)).replace(".", ",")
        (tmp_path / f"film.{kind}").write_text("WEBVTT\n\n" + "\n".join(blocks) if kind == "vtt" else text)
    prepare(tmp_path, tmp_path / "out", options)
    clips = all_clips(tmp_path / "out")
    assert {clip.caption for clip in clips} == {words for *_, words in cues}
    for clip in clips:
        assert any(
            a <= clip.start_s + 1e-6 and clip.start_s + 1 <= b + 1e-6 and clip.caption == words
            for a, b, words in cues
        )
    assert "time of the video not used" in noted(tmp_path / "out")


def write_files(folder: Path, count: int, kinds: int = 3) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        write_video(folder / f"{i:03d}.mp4", scene(i % kinds, rng))
        (folder / f"{i:03d}.txt").write_text(f"take {i}")
    return folder


def test_eight_experts_from_thirty_clips_and_from_fewer_how_many_more(tmp_path, options):
    folder = write_files(tmp_path / "clips", 30)
    result = prepare(folder, tmp_path / "out", options.model_copy(update={"experts": 8}))
    assert result.experts == 8
    assert each_checked(result)
    for i in range(20, 30):
        (folder / f"{i:03d}.mp4").unlink()
    with pytest.raises(DataError, match=r"20 clips are too few for 8 experts: the least is 28.*give 8 more"):
        prepare(folder, tmp_path / "few", options.model_copy(update={"experts": 8}))


def test_a_kind_of_which_there_are_two_clips_gets_one_of_them_into_the_gate(tmp_path, options):
    folder = write_files(tmp_path / "clips", 41, kinds=1)
    for name in ("a", "b"):
        write_video(folder / f"{name}.mp4", 255 - scene(0, np.random.default_rng(ord(name))))
        (folder / f"{name}.txt").write_text("inverted")
    for rng_seed in range(3):
        result = prepare(
            folder, tmp_path / "out", options.model_copy(update={"experts": 2, "rng_seed": rng_seed})
        )
        assert each_checked(result)


def test_slides_that_differ_only_in_the_middle_are_no_copies_and_a_copy_is_one(tmp_path, options):
    for i in range(24):
        slide = np.full((300, 400, 3), 230, np.uint8)
        slide[120:128, 16 * i : 16 * i + 12] = 20
        Image.fromarray(slide).save(tmp_path / f"{i:02d}.bmp")
        (tmp_path / f"{i:02d}.txt").write_text(f"slide {i}")
    for name, data in (("copy.bmp", (tmp_path / "07.bmp").read_bytes()), ("copy.txt", b"again")):
        (tmp_path / name).write_bytes(data)
    result = prepare(tmp_path, tmp_path / "out", options.model_copy(update={"frames": 1}))
    assert sum(result.clips.values()) == 24
    assert result.skipped == {"duplicate": 1}
    assert (
        report(tmp_path / "out")["skipped_files"][0]["detail"]
        == "byte for byte the same as 07.bmp, whose caption is used"
    )


def test_names_that_are_no_utf_8_are_used_printed_and_found_again(tmp_path, options):
    folder = write_files(tmp_path / "clips", 12)
    for old, new in (
        ("000.mp4", b"caf\xe9 \xff.mp4"),
        ("000.txt", b"caf\xe9 \xff.txt"),
        ("001.mp4", b"bad\x1b[31m.mp4"),
    ):
        os.rename(folder / old, os.fsencode(folder) + b"/" + new)
    os.rename(folder / "001.txt", os.fsencode(folder) + b"/bad\x1b[31m.txt")
    (folder / os.fsdecode(b"empty\xfe.mp4")).write_bytes(b"")
    out = tmp_path / os.fsdecode(b"\xe4us")
    result = prepare(folder, out, options)
    clips = {clip.source: clip for clip in all_clips(out)}
    assert len(clips) == 12
    assert clips["caf\\xe9 \\xff.mp4"].caption == "take 0"
    assert clips["caf\\xe9 \\xff.mp4"].pixels(result.clip).shape == (8, 16, 16, 3)
    assert "bad\\x1b[31m.mp4" in clips
    assert report(out)["skipped_files"] == [{"name": "empty\\xfe.mp4", "reason": "empty", "detail": ""}]
    result.describe().encode()


def test_linked_folders_are_followed_once_and_loops_end(tmp_path, options):
    elsewhere = write_files(tmp_path / "elsewhere", 12)
    folder = tmp_path / "clips"
    (folder / "deep").mkdir(parents=True)
    (folder / "a").symlink_to(elsewhere)
    (folder / "deep" / "b").symlink_to(elsewhere)
    (folder / "deep" / "loop").symlink_to(folder)
    result = prepare(folder, tmp_path / "out", options)
    assert {clip.source.split("/")[0] for clip in all_clips(tmp_path / "out")} == {"a"}
    assert sum(result.clips.values()) == 12
    left = {row["name"]: row["detail"] for row in report(tmp_path / "out")["skipped_files"]}
    assert left == dict.fromkeys(["deep/b", "deep/loop"], "the linked folder was seen already")


def test_files_that_look_like_media_or_have_a_caption_and_are_not_read_are_listed(tmp_path, options):
    folder = write_files(tmp_path / "clips", 12)
    for name in ("photo.heic", "old.rmvb", "more.zip", "thing.xyz", "thing.txt", "notes.md", "000.srt.bak"):
        (folder / name).write_bytes(b"x")
    result = prepare(folder, tmp_path / "out", options)
    assert result.skipped == {"not read": 4}
    left = {row["name"]: row["detail"] for row in report(tmp_path / "out")["skipped_files"]}
    assert left["photo.heic"] == ".heic files are not read; convert it to .jpg or .png"
    assert left["thing.xyz"] == "it has a caption, but .xyz is not read; convert or rename it"


def test_damage_and_conversions_are_reported(tmp_path, options):
    folder = write_files(tmp_path / "clips", 12)
    path = odd.keyframes(folder / "bad.mp4", odd.levels(48))
    path.write_bytes(odd.with_hole(path.read_bytes(), [odd.packets(path)[20]]))
    odd.with_matrix(folder / "phone.mp4", counting(8, 16, 32, step=9), (0, 1, -1, 0))
    for name in ("bad", "phone"):
        (folder / f"{name}.txt").write_text(name)
    prepare(folder, tmp_path / "out", options.model_copy(update={"experts": 1}))
    told = noted(tmp_path / "out")
    assert told["packets damaged"] == told["clips lost to damage or a short end"] == ["bad.mp4"]
    assert told["turned as its display matrix says"] == ["phone.mp4"]
    assert sum(clip.source == "bad.mp4" for clip in all_clips(tmp_path / "out")) >= 4


def test_a_created_run_is_not_replaced_but_the_very_same_continues(tmp_path, options):
    folder = write_files(tmp_path / "clips", 12)
    out = tmp_path / "out"
    result = prepare(folder, out, options)
    (out / "run.spec").write_bytes(b"signed")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert prepare(folder, out, options) == result
    with pytest.raises(UsageError, match=r"holds a created run .run\.spec.*Give another --out"):
        prepare(folder, out, options.model_copy(update={"rng_seed": 1}))
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    shard = out / result.shards[0].path
    shard.unlink()
    assert prepare(folder, out, options) == result
    assert shard.read_bytes() == before[shard]


def test_a_folder_without_a_usable_file_says_why_and_lists_each_file_in_the_report(tmp_path, options):
    folder, out = tmp_path / "clips", tmp_path / "out"
    folder.mkdir()
    for i in range(3):
        write_video(folder / f"{i}.mp4", counting(16, 32))
    (folder / "photo.heic").write_bytes(b"x")
    said = r"\(3 no caption, 1 not read; the first is 0\.mp4: write one into 0\.txt, .*see report\.json in"
    with pytest.raises(DataError, match=said):
        prepare(folder, out, options)
    assert {row["name"] for row in report(out)["skipped_files"]} == {"0.mp4", "1.mp4", "2.mp4", "photo.heic"}
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match="it holds no such files"):
        prepare(tmp_path / "nothing", tmp_path / "none", options)
    assert not (tmp_path / "none").exists()


def test_one_of_a_kind_is_reported_as_one(tmp_path, options):
    folder = write_files(tmp_path / "clips", 8)
    (folder / "photo.heic").write_bytes(b"x")
    told = prepare(folder, tmp_path / "out", options.model_copy(update={"experts": 0})).describe()
    assert "note: 1 expert chosen for so many clips" in told
    assert "skipped 1 file (1 not read)" in told
    with pytest.raises(DataError, match="6 clips are too few for 1 expert: the least is 7 "):
        prepare(
            write_files(tmp_path / "few", 6), tmp_path / "out-few", options.model_copy(update={"experts": 1})
        )


def test_a_failure_leaves_the_report_and_after_clustering_the_picture(tmp_path, options, monkeypatch):
    folder = write_files(tmp_path / "clips", 12)
    (folder / "empty.mp4").write_bytes(b"")
    out = tmp_path / "out"
    with pytest.raises(DataError, match=r"too few for 9 experts.*see report\.json in"):
        prepare(folder, out, options.model_copy(update={"experts": 9}))
    assert report(out)["skipped_files"][0]["name"] == "empty.mp4"
    assert "too few for 9 experts" in report(out)["error"]
    monkeypatch.setattr(clustering, "give_gate_clips", lambda splits, *_: (dict(splits), [1]))
    with pytest.raises(DataError, match=r"cluster 1 of 2 has .*see report\.json and clusters\.png in"):
        prepare(folder, out, options.model_copy(update={"experts": 2}))
    with Image.open(out / "clusters.png") as sheet:
        assert sheet.size[1] > 50
    assert not (out / "prepared.json").exists()


def test_a_failure_while_captions_are_read_leaves_the_picture_of_the_clusters(tmp_path, options, monkeypatch):
    folder, out = write_files(tmp_path / "clips", 12), tmp_path / "out"

    def fail(*_: object) -> None:
        raise DataError("the text encoder gave values that are not finite")

    monkeypatch.setattr(prepare_room, "embed_captions", fail)
    with pytest.raises(DataError, match=r"not finite \(see report\.json and clusters\.png in"):
        prepare(folder, out, options)
    with Image.open(out / "clusters.png") as sheet:
        assert sheet.size[1] > 50
    assert "not finite" in report(out)["error"]
    monkeypatch.undo()
    prepare(folder, out, options)
    assert not (out / "partial").exists()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"features": "gpu"}, "no feature network"),
        ({"text": "x"}, "no text encoder"),
        ({"codec": "x"}, "no codec"),
    ],
)
def test_a_name_that_leads_nowhere_is_reported_before_any_file_is_read(
    tmp_path, options, monkeypatch, wrong, says
):
    def read(*_: object) -> None:
        raise AssertionError("a file was read")

    monkeypatch.setattr(prepare_room, "hash_sources", read)
    folder = write_files(tmp_path / "clips", 12)
    with pytest.raises(PresetError, match=says):
        prepare(folder, tmp_path / "out", options.model_copy(update=wrong))


def test_the_device_is_chosen_where_it_is_left_to_the_machine(tmp_path, options):
    folder, auto = write_files(tmp_path / "clips", 12), options.model_copy(update={"device": "auto"})
    assert prepare(folder, tmp_path / "out", auto) == prepare(folder, tmp_path / "again", options)
