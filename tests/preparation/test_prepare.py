import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from transformers import Dinov2Config, Dinov2Model

from paris_p2p.codec.pca import PcaCodec
from paris_p2p.codec.text import load_text_encoder
from paris_p2p.codec.video import load_codec
from paris_p2p.data.cache import Cache
from paris_p2p.data.clips import ClipSet
from paris_p2p.data.prepared import Prepared, split_clips
from paris_p2p.data.splits import SplitOptions
from paris_p2p.errors import DataError, DiskFullError, ReadOnlyError, UsageError
from paris_p2p.preparation import networks
from paris_p2p.preparation.encoding import Encoder
from paris_p2p.preparation.prepare import PrepareOptions, prepare
from tests.data.videos import counting, scene, write_sound, write_tar, write_video
from tests.features.test_image_text import save_clip

OPTIONS = PrepareOptions(experts=3, height=16, width=16, text_tokens=8, feature_frames=1, threads=1)
CAPTIONS = ("a square on grass", "waves of light", "nothing but noise")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def write_clips(folder: Path, count: int, rng_seed: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(rng_seed)
    for i in range(count):
        write_video(folder / f"{i:03d}.mp4", scene(i % 3, rng))
        (folder / f"{i:03d}.txt").write_text(f"{CAPTIONS[i % 3]}, take {i // 3 % 10}")
    return folder


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"), 90)


@pytest.fixture(scope="module")
def cheap(tmp_path_factory) -> PrepareOptions:
    """Returns options with one expert, and a network of random weights in place of EfficientNet."""
    folder = tmp_path_factory.mktemp("features") / "random"
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    Dinov2Model(config).save_pretrained(folder)
    return OPTIONS.model_copy(update={"experts": 1, "features": f"transformers:{folder}"})


@pytest.fixture(scope="module")
def prepared(clips, tmp_path_factory) -> tuple[Path, Prepared]:
    out = tmp_path_factory.mktemp("prepared") / "out"
    return out, prepare(clips, out, OPTIONS)


def contents(out: Path) -> dict[str, bytes]:
    return {
        p.relative_to(out).as_posix(): p.read_bytes()
        for p in out.rglob("*")
        if p.is_file() and "cache" not in p.parts
    }


def test_every_clip_is_in_one_split_and_the_clusters_are_the_three_scenes(prepared):
    out, result = prepared
    assert sum(result.clips.values()) == 90
    assert {split: count > 0 for split, count in result.clips.items()} == dict.fromkeys(
        ("train", "gate", "validation", "test"), True
    )
    kinds = {}
    for split in result.clips:
        for row in map(json.loads, (out / result.captions[split]).read_text().splitlines()):
            kinds.setdefault(row["caption"].split(",")[0], set()).add(row["cluster"])
    assert sorted(map(len, kinds.values())) == [1, 1, 1]
    assert all(row.clips["gate"] > 0 for row in result.clusters)


def test_no_source_and_no_clip_is_in_two_splits(prepared):
    out, result = prepared
    sources = [{clip.source for clip in split_clips(out, split)} for split in result.clips]
    keys = [clip.key for split in result.clips for clip in split_clips(out, split)]
    assert len(set().union(*sources)) == sum(map(len, sources)) == 90
    assert len(keys) == len(set(keys))


def test_shards_hold_the_latents_and_embeddings_of_their_clips(prepared):
    out, result = prepared
    codec = load_codec(result.codec.name, out / "codec")
    text = load_text_encoder(result.text.name, tokens=8, sha256=result.text.sha256)
    where = {(clip.source, clip.cluster): clip for clip in split_clips(out, "test")}
    shards = result.shards_for("test")
    stored = ClipSet([out / shard.path for shard in shards], [shard.cluster for shard in shards])
    assert len(stored) == result.clips["test"] == len(where)
    clip = stored[0]
    assert clip.latent.shape == result.latent.shape
    same_caption = [c for c in where.values() if c.caption == clip.caption]
    latents = [codec.encode(torch.from_numpy(c.pixels(result.clip))[None])[0] for c in same_caption]
    assert min(float((latent - clip.latent).abs().max()) for latent in latents) < 0.02
    batch = text.encode([clip.caption])
    assert torch.allclose(batch.tokens[0], clip.tokens, atol=2e-3)
    assert torch.equal(batch.mask[0], clip.mask)


def test_what_is_written_is_complete(prepared):
    out, result = prepared
    assert Prepared.load(out) == result
    assert (out / "clusters.png").read_bytes()[:4] == b"\x89PNG"
    assert json.loads((out / "report.json").read_text())["skipped_files"] == []
    assert isinstance(load_codec("pca", out / "codec"), PcaCodec)
    assert result.codec.files == {"pca.safetensors": "codec/pca.safetensors"}
    assert str(out.parent) not in (out / "prepared.json").read_text()
    assert "90 clips from 90 videos" in result.describe()


def test_a_second_call_does_nothing_and_a_fresh_one_gives_the_same_bytes(
    prepared, clips, tmp_path, monkeypatch
):
    out, result = prepared
    before = contents(out)
    again = prepare(clips, tmp_path / "again", OPTIONS.model_copy(update={"threads": 3}))
    assert again == result
    assert contents(tmp_path / "again") == before
    monkeypatch.setattr(
        networks, "load_features", lambda *_, **__: pytest.fail("something was computed again")
    )
    assert prepare(clips, out, OPTIONS) == result


def test_another_seed_splits_otherwise(clips, tmp_path, cheap):
    tests = []
    for rng_seed in (0, 1):
        prepare(clips, tmp_path / "out", cheap.model_copy(update={"rng_seed": rng_seed}))
        tests.append({clip.source for clip in split_clips(tmp_path / "out", "test")})
    assert tests[0] != tests[1]


STOPPED = """
import os, signal, sys
from pathlib import Path
from paris_p2p.preparation.prepare import PrepareOptions, prepare
def progress(stage, done, total):
    if stage == "encode" and done == 20:
        os.kill(os.getpid(), signal.SIGKILL)
prepare(Path(sys.argv[1]), Path(sys.argv[2]), PrepareOptions.model_validate_json(sys.argv[3]), progress)
"""


def test_after_sigkill_it_continues_where_it_was_and_gives_the_same_bytes(
    prepared, clips, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    stopped = subprocess.run(
        [sys.executable, "-c", STOPPED, str(clips), str(out), OPTIONS.model_dump_json()],
        env=environment,
        check=False,
    )
    assert stopped.returncode == -signal.SIGKILL
    assert not (out / "prepared.json").exists()
    encoded: list[str] = []
    original = Encoder._encode
    monkeypatch.setattr(
        Encoder,
        "_encode",
        lambda self, source: encoded.extend(part.name for part in source) or original(self, source),
    )
    prepare(clips, out, OPTIONS)
    assert 0 < len(encoded) <= 70
    assert contents(out) == contents(prepared[0])


def test_new_videos_are_added_without_doing_the_others_again(tmp_path, monkeypatch, cheap):
    folder = write_clips(tmp_path / "clips", 60)
    options = cheap.model_copy(update={"codec": f"diffusers:{save_autoencoder(tmp_path / 'vae')}"})
    prepare(folder, tmp_path / "out", options)
    write_clips(tmp_path / "more", 63, rng_seed=5)
    for name in ("060", "061", "062"):
        for suffix in (".mp4", ".txt"):
            (tmp_path / "more" / f"{name}{suffix}").rename(folder / f"{name}{suffix}")
    encoded: list[str] = []
    original = Encoder._encode
    monkeypatch.setattr(
        Encoder,
        "_encode",
        lambda self, source: encoded.extend(part.name for part in source) or original(self, source),
    )
    assert sum(prepare(folder, tmp_path / "out", options).clips.values()) == 63
    assert encoded == ["060.mp4", "061.mp4", "062.mp4"]


def save_autoencoder(folder: Path) -> Path:
    torch.manual_seed(0)
    layers = {"encoder_block_out_channels": (4, 4), "decoder_block_out_channels": (4, 4)}
    diffusers.AutoencoderTiny(**layers, num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1)).save_pretrained(
        folder
    )
    return folder


def test_two_networks_of_one_folder_do_not_share_what_was_computed(tmp_path, cheap):
    folder = write_clips(tmp_path / "clips", 40)
    save_clip(tmp_path / "clip")
    options = [
        cheap.model_copy(update={"features": f"{kind}:{tmp_path / 'clip'}"})
        for kind in ("transformers", "clip")
    ]
    for each in options:
        prepare(folder, tmp_path / "out", each)
    prepare(folder, tmp_path / "fresh", options[1])
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_a_local_autoencoder_travels_with_the_run_and_its_path_does_not(tmp_path, cheap):
    folder = write_clips(tmp_path / "clips", 40)
    out = tmp_path / "out"
    codec = save_autoencoder(tmp_path / "my-vae")
    result = prepare(folder, out, cheap.model_copy(update={"codec": f"diffusers:{codec}"}))
    assert result.codec.name == "diffusers:my-vae"
    assert set(result.codec.files) == {"config.json", "diffusion_pytorch_model.safetensors"}
    assert result.latent.shape == (4, 8, 8, 8)
    load_codec(result.codec.name, out / "codec", sha256=result.codec.sha256)


def test_bad_files_are_skipped_counted_and_listed(tmp_path, cheap):
    folder = write_clips(tmp_path / "clips", 40)
    write_sound(folder / "sound.mp4")
    write_video(folder / "short.mp4", counting(3))
    (folder / "garbage.mp4").write_bytes(b"no video" * 100)
    (folder / "empty.mp4").write_bytes(b"")
    write_video(folder / "mute.mp4", counting(8))
    (folder / "twin.mp4").write_bytes((folder / "000.mp4").read_bytes())
    for name in ("sound", "short", "garbage", "empty", "twin"):
        (folder / f"{name}.txt").write_text("a caption")
    result = prepare(folder, tmp_path / "out", cheap)
    assert result.skipped == {
        "duplicate": 1,
        "empty": 1,
        "no caption": 1,
        "no video": 1,
        "too short": 1,
        "unreadable": 1,
    }
    listed = {
        row["name"]: row["reason"]
        for row in json.loads((tmp_path / "out" / "report.json").read_text())["skipped_files"]
    }
    assert listed["sound.mp4"] == "no video"
    assert listed["twin.mp4"] == "duplicate"
    assert sum(result.clips.values()) == 40


def test_long_videos_stay_whole_in_their_split_and_named_sources_stay_together(tmp_path, cheap):
    folder = tmp_path / "clips"
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for i in range(24):
        write_video(folder / f"{i}.mp4", np.concatenate([scene(k % 3, rng) for k in range(3)]))
        rows.append({"file": f"{i}.mp4", "caption": f"take {i}", "source": f"film {i // 2}"})
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    out = tmp_path / "out"
    result = prepare(folder, out, cheap)
    assert sum(result.clips.values()) == 72
    films: dict[int, set[str]] = {}
    for split in result.clips:
        for clip in split_clips(out, split):
            film = int(clip.source.removesuffix(".mp4")) // 2
            films.setdefault(film, set()).add(split)
            assert clip.video == f"film {film}"
    assert {len(splits) for splits in films.values()} == {1}


def test_webdataset_tars_give_what_files_give(tmp_path, cheap):
    folder = write_clips(tmp_path / "files", 40)
    (tmp_path / "tars").mkdir()
    write_tar(
        tmp_path / "tars" / "a.tar", {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    )
    options = cheap
    from_files = prepare(folder, tmp_path / "a", options)
    from_tars = prepare(tmp_path / "tars", tmp_path / "b", options)
    assert from_tars.clips == from_files.clips
    latents = [
        {
            clip_key: ClipSet([folder / shard.path for shard in result.shards_for("test")], [0])[0].latent
            for clip_key in ("first",)
        }
        for folder, result in ((tmp_path / "a", from_files), (tmp_path / "b", from_tars))
    ]
    assert torch.equal(latents[0]["first"], latents[1]["first"])
    clip = next(split_clips(tmp_path / "b", "test"))
    assert clip.source.startswith("a.tar/")
    assert clip.pixels(from_tars.clip).shape == (8, 16, 16, 3)


def test_nothing_usable_says_what_to_give(tmp_path, cheap):
    (tmp_path / "clips").mkdir()
    with pytest.raises(DataError, match=r"it holds no such files.*Give files with captions"):
        prepare(tmp_path / "clips", tmp_path / "out", cheap)
    (tmp_path / "clips" / "a.mp4").write_bytes(b"x")
    with pytest.raises(DataError, match=r"1 no caption; the first is a\.mp4"):
        prepare(tmp_path / "clips", tmp_path / "out", cheap)


def test_more_experts_than_the_clips_allow_says_so(tmp_path, cheap):
    folder = write_clips(tmp_path / "clips", 40)
    with pytest.raises(DataError, match="ask for"):
        prepare(folder, tmp_path / "out", cheap.model_copy(update={"experts": 200}))
    assert not (tmp_path / "out" / "prepared.json").exists()


def test_a_full_disk_is_an_error_that_says_that_it_will_continue(clips, tmp_path, monkeypatch, cheap):
    def full(self, path, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Cache, "_write", full)
        with pytest.raises(DiskFullError, match="make room and run the same command again"):
            prepare(clips, tmp_path / "out", cheap)
    assert not (tmp_path / "out" / "prepared.json").exists()
    assert sum(prepare(clips, tmp_path / "out", cheap).clips.values()) == 90


def test_places_that_cannot_be_written_are_named(clips, tmp_path, monkeypatch, cheap):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UsageError, match="give a folder as --out"):
        prepare(clips, tmp_path / "file" / "out", cheap)

    def read_only(self, *_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(ReadOnlyError, match="Read-only file system"):
        prepare(clips, tmp_path / "out", cheap)


def test_clips_too_large_for_the_memory_are_refused_before_anything_is_read(tmp_path, cheap):
    options = cheap.model_copy(update={"frames": 1000, "height": 2048, "width": 2048})
    with pytest.raises(UsageError, match="ask for fewer or smaller"):
        prepare(tmp_path, tmp_path / "out", options)


def test_captions_that_train_saw_are_marked(tmp_path, cheap):
    folder = write_clips(tmp_path / "clips", 40)
    for path in sorted(folder.glob("*.txt"))[::2]:
        path.write_text("the same for all")
    for i, path in enumerate(sorted(folder.glob("*.txt"))[1::2]):
        path.write_text(f"only once {i}")
    out = tmp_path / "out"
    result = prepare(folder, out, cheap.model_copy(update={"splits": SplitOptions(test_min_clips=12)}))
    rows = [json.loads(line) for line in (out / result.captions["test"]).read_text().splitlines()]
    assert {row["seen_in_train"] for row in rows if row["caption"] == "the same for all"} == {True}
    assert {row["seen_in_train"] for row in rows if row["caption"] != "the same for all"} == {False}


def test_captions_that_are_cut_converted_or_mended_are_counted_and_listed(tmp_path, cheap):
    folder = write_clips(tmp_path / "clips", 40)
    long = "a red ball rolls " * 20
    rows = [{"file": f"{i:03d}.mp4", "caption": f"take {i}"} for i in range(37)]
    rows += [{"file": "037.MP4", "caption": long}, {"file": "038.mp4", "caption": "half \ud83d an emoji\0"}]
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "039.txt").write_bytes("un café".encode("cp1252"))
    options = cheap.model_copy(update={"text_tokens": 0, "caption_encoding": "cp1252"})
    whole = prepare(folder, tmp_path / "out", options)
    mended = {"half characters replaced in the caption": 1, "control characters left out of the caption": 1}
    other = {"caption read as cp1252": 1, "name matched though written otherwise": 1}
    assert whole.notes == mended | other
    # 80 words and two marks, in eights
    assert (whole.text_shape.tokens, whole.longest_caption_tokens) == (88, 82)
    assert (
        "text: 88 tokens of a caption are read, the longest has 82; each clip carries 68 kB"
        in whole.describe()
    )
    assert "note: caption read as cp1252" in whole.describe()
    cut = prepare(folder, tmp_path / "out", options.model_copy(update={"text_tokens": 16}))
    assert cut.notes == mended | other | {"caption cut to 16 text tokens": 1}
    noted = json.loads((tmp_path / "out" / "report.json").read_text())["noted_files"]
    assert [(note["name"], note["detail"][:11]) for note in noted if "16" in note["what"]] == [
        ("037.mp4", "it has 82: ")
    ]
    with pytest.raises(UsageError, match="takes 512 tokens, not 513"):
        prepare(folder, tmp_path / "more", options.model_copy(update={"text_tokens": 513}))
