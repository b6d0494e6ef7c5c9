import io
import json
import tarfile

import numpy as np
from safetensors.numpy import load

from paris_p2p.data.clips import ClipSet
from paris_p2p.data.shards import Sample, write_shards


def samples(count: int) -> list[Sample]:
    rng = np.random.default_rng(0)
    return [
        Sample(
            key=f"{i:04x}-000000",
            latent=rng.normal(size=(4, 2, 3, 3)).astype(np.float16),
            tokens=rng.normal(size=(6, 8)).astype(np.float16),
            mask=np.array([1, 1, 0, 0, 0, 0], np.uint8),
            pooled=rng.normal(size=8).astype(np.float16),
            info={"caption": f"clip ünï {i}", "source": "a.mp4", "cluster": 3, "start_frame": i},
        )
        for i in range(count)
    ]


def test_the_reader_of_clips_reads_what_was_written(tmp_path):
    shards = list(write_shards(tmp_path / "shards", "train", 3, samples(5), 1 << 20))
    assert [(s.path, s.clips, s.cluster) for s in shards] == [("shards/train/cluster-3/000000.tar", 5, 3)]
    clips = ClipSet([tmp_path / shard.path for shard in shards], [3])
    assert len(clips) == 5
    assert clips[2].caption == "clip ünï 2"
    assert np.array_equal(clips[2].latent.numpy(), samples(5)[2].latent.astype(np.float32))
    assert clips[2].mask.tolist() == [True, True, False, False, False, False]


def test_shards_are_plain_webdataset_tars(tmp_path):
    (shard,) = write_shards(tmp_path / "shards", "gate", 0, samples(1), 1 << 20)
    with tarfile.open(tmp_path / shard.path) as tar:
        data = {member.name: tar.extractfile(member).read() for member in tar}
    assert set(data) == {"0000-000000.json", "0000-000000.safetensors"}
    assert json.loads(io.BytesIO(data["0000-000000.json"]).read())["start_frame"] == 0
    assert {name: str(t.dtype) for name, t in load(data["0000-000000.safetensors"]).items()} == {
        "latent": "float16", "mask": "uint8", "pooled": "float16", "tokens": "float16",
    }  # fmt: skip


def test_shards_are_closed_at_their_size_and_hold_every_sample_once(tmp_path):
    shards = list(write_shards(tmp_path / "shards", "train", 0, samples(40), 20_000))
    assert len(shards) > 2
    assert sum(shard.clips for shard in shards) == 40
    assert all((tmp_path / shard.path).stat().st_size == shard.size_bytes < 40_000 for shard in shards)


def test_the_same_samples_give_the_same_bytes(tmp_path):
    paths = [
        next(write_shards(tmp_path / name / "shards", "train", 0, samples(3), 1 << 20)).path for name in "ab"
    ]
    assert (tmp_path / "a" / paths[0]).read_bytes() == (tmp_path / "b" / paths[1]).read_bytes()


def test_no_samples_make_no_shard(tmp_path):
    assert list(write_shards(tmp_path / "shards", "train", 0, [], 1 << 20)) == []
