import numpy as np

from paris_p2p.data.cache import Cache, Encoded, cache_key
from paris_p2p.data.decode import UnusableVideo

KEY = cache_key("a video", 1)


def encoded() -> Encoded:
    rng = np.random.default_rng(0)
    return Encoded(
        latents=rng.normal(size=(2, 4, 2, 3, 3)).astype(np.float16),
        features=rng.normal(size=(2, 5)).astype(np.float32),
        thumbs=rng.integers(0, 255, (2, 8, 8, 3), dtype=np.uint8),
        starts_s=np.array([0.0, 1.5]),
    )


def test_what_is_put_is_read_whole_or_by_row(tmp_path):
    cache = Cache(tmp_path)
    cache.put_encoded(KEY, encoded())
    assert cache.starts_s(KEY) == [0.0, 1.5]
    assert np.array_equal(cache.read(KEY, "latents", 1), encoded().latents[1])
    assert np.array_equal(cache.read(KEY, "features"), encoded().features)


def test_why_a_video_gave_nothing_is_remembered(tmp_path):
    Cache(tmp_path).put_failure(KEY, UnusableVideo("too short", "0.1 s"))
    known = Cache(tmp_path).starts_s(KEY)
    assert isinstance(known, UnusableVideo)
    assert (known.reason, known.detail) == ("too short", "0.1 s")


def test_a_damaged_file_counts_as_not_done(tmp_path):
    cache = Cache(tmp_path)
    assert cache.starts_s(KEY) is None
    cache.put_encoded(KEY, encoded())
    path = next(tmp_path.rglob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-7])
    assert cache.starts_s(KEY) is None
    assert not cache.has(KEY)


def test_keys_differ_with_any_part():
    assert len({cache_key("a", 1), cache_key("a", 2), cache_key("b", 1), cache_key("a", "1")}) == 4
