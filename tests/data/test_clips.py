"""Tests that clips come out of shards as they went in, and that a hostile shard is refused with words."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
import webdataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paris_p2p.data.clips import ClipSet
from paris_p2p.data.tar_index import tar_members
from paris_p2p.errors import DataError
from tests.data.shards import LATENT, TEXT, clip_bytes, write_shard, write_tar

CAPTION = json.dumps({"caption": "a"}).encode()


def test_clips_come_out_as_they_went_in_and_in_order(tmp_path: Path) -> None:
    paths = [write_shard(tmp_path / f"{i}.tar", i, 3, first_seed=10 * i) for i in range(2)]
    clips = ClipSet(paths, (0, 1), latent=LATENT, text=TEXT)
    assert [clip.caption for clip in clips] == [f"clip {seed}" for seed in (0, 1, 2, 10, 11, 12)]
    assert [clip.cluster for clip in clips] == [0, 0, 0, 1, 1, 1]
    stored = safetensors.torch.load(clip_bytes(1011, 1))
    clip = clips[4]
    assert torch.equal(clip.latent, stored["latent"].float())
    assert torch.equal(clip.mask, stored["mask"].bool())
    assert clip.tokens.dtype == clip.pooled.dtype == torch.float32


def test_what_webdataset_writes_is_read(tmp_path: Path) -> None:
    with (tmp_path / "w.tar").open("wb") as file, webdataset.TarWriter(file) as writer:
        writer.write({"__key__": "000001", "safetensors": clip_bytes(1, 0), "json": {"caption": "é"}})
    assert ClipSet([tmp_path / "w.tar"], [0])[0].caption == "é"


def test_the_cache_stays_within_its_bytes_and_changes_nothing(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "a.tar", 0, 8)
    one = ClipSet([path], [0]).stored(0).size_bytes
    small, none = ClipSet([path], [0], cache_bytes=3 * one), ClipSet([path], [0], cache_bytes=0)
    for index in (0, 1, 2, 3, 1, 7, 0, 3):
        assert torch.equal(small.stored(index).latent, none.stored(index).latent)
        assert len(small._cache) <= 3
    assert len(none._cache) == 0
    assert small.stored(3) is small.stored(3)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "plain files only"),
        ({"type": tarfile.LNKTYPE, "linkname": "/etc/passwd"}, "plain files only"),
        ({"type": tarfile.CHRTYPE}, "plain files only"),
        ({"pax_headers": {"path": "elsewhere"}}, "renames or resizes"),
        ({"pax_headers": {"GNU.sparse.size": "9"}}, "renames or resizes"),
    ],
)
def test_anything_but_plain_files_is_refused(tmp_path: Path, fields: dict[str, object], words: str) -> None:
    path = write_tar(tmp_path / "a.tar", [("a.json", b"")], **fields)
    with pytest.raises(DataError, match=words):
        ClipSet([path], [0])


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([("a.safetensors", clip_bytes(1, 0))], "not both"),
        ([("a.json", CAPTION), ("a.json", CAPTION)], "there twice"),
        ([("a.safetensors", clip_bytes(1, 0)), ("a.json", b" " * 70_000)], "too large"),
    ],
)
def test_a_shard_that_contradicts_itself_is_refused(
    tmp_path: Path, members: list[tuple[str, bytes]], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        ClipSet([write_tar(tmp_path / "a.tar", members)], [0])


def _bad_clips() -> dict[str, bytes]:
    good = safetensors.torch.load(clip_bytes(1, 0))
    nan = good["latent"].clone()
    nan[0, 0, 0, 0] = float("nan")
    return {
        "not valid safetensors": b"\xff" * 64,
        "has tensors": safetensors.torch.save({"latent": good["latent"]}),
        "is torch.float32": safetensors.torch.save({**good, "latent": good["latent"].float()}),
        r"\[8\], expected torch.float16 \[4, 8\]": safetensors.torch.save(
            {**good, "tokens": good["tokens"][0].clone()}
        ),
        "is not finite": safetensors.torch.save({**good, "latent": nan}),
    }


@pytest.mark.parametrize("words", _bad_clips())
def test_a_malformed_clip_is_refused(tmp_path: Path, words: str) -> None:
    path = write_tar(tmp_path / "a.tar", [("a.safetensors", _bad_clips()[words]), ("a.json", CAPTION)])
    with pytest.raises(DataError, match=words):
        ClipSet([path], [0], latent=LATENT, text=TEXT)[0]


def test_a_caption_that_is_not_one_is_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [("a.safetensors", clip_bytes(1, 0)), ("a.json", b"[" * 60_000)])
    with pytest.raises(DataError, match="no readable caption"):
        ClipSet([path], [0]).caption(0)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.tar"):
        ClipSet([tmp_path / "gone.tar"], [0])


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(cut=st.integers(0, 6000), at=st.integers(0, 6000), garbage=st.binary(max_size=40))
def test_a_damaged_shard_gives_members_inside_the_file_or_words(
    tmp_path: Path, cut: int, at: int, garbage: bytes
) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("a.safetensors", "a.json"):
            info = tarfile.TarInfo(name)
            info.size = 700
            tar.addfile(info, io.BytesIO(b"x" * 700))
    data = bytearray(buffer.getvalue())
    data[at : at + len(garbage)] = garbage
    path = tmp_path / "damaged.tar"
    path.write_bytes(data[: len(data) - cut])
    try:
        members = list(tar_members(path))
    except DataError:
        return
    assert all(start + size <= path.stat().st_size and size >= 0 for _, start, size in members)
