import sys

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from paris_p2p.errors import UsageError
from paris_p2p.score.intervals import Clips, Plan
from paris_p2p.score.motion import motion_px_per_frame, score_motion


def drifting(step_px: int, rng_seed: int = 0) -> np.ndarray:
    """Returns a picture that is drawn `step_px` further to the right in every frame: uint8 [1 T H W 3]."""
    picture = gaussian_filter(np.random.default_rng(rng_seed).normal(size=(64, 128)), 2)
    picture = np.interp(picture, (picture.min(), picture.max()), (0, 255)).astype(np.uint8)
    frames = [picture[:, 40 - step_px * t : 104 - step_px * t] for t in range(6)]
    return np.repeat(np.stack(frames)[None, ..., None], 3, axis=-1)


@pytest.mark.parametrize("step_px", [0, 1, 2, 4])
def test_motion_is_what_the_picture_was_moved_by(step_px):
    assert motion_px_per_frame(drifting(step_px))[0] == pytest.approx(step_px, abs=0.15 + 0.1 * step_px)


def test_each_clip_has_its_own_motion():
    both = np.concatenate([drifting(3), drifting(0)])
    assert motion_px_per_frame(both) == pytest.approx([motion_px_per_frame(drifting(3))[0], 0], abs=1e-6)


def test_motion_of_generated_clips_is_reported_beside_the_real_ones():
    rng = np.random.default_rng(0)
    real, still = (Clips(rng.normal(mean, 0.2, (40, 1)), np.arange(40)) for mean in (2.0, 0.5))
    motion = score_motion(real, still, Plan(resamples=50, splits=10))
    assert motion.real.low < 2.0 < motion.real.high
    assert motion.generated.low < 0.5 < motion.generated.high
    assert motion.difference.high < motion.difference.floor.low
    assert motion.difference.value == pytest.approx(motion.generated.value - motion.real.value)


def test_what_has_no_flow_is_refused():
    with pytest.raises(UsageError, match="2 frames"):
        motion_px_per_frame(drifting(1)[:, :1])
    with pytest.raises(UsageError, match="needs uint8"):
        motion_px_per_frame(drifting(1).astype(np.float32))


def test_without_opencv_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(
        UsageError,
        match=r"opencv-python-headless; in a clone of .* run `pip install -e '.\[evaluate\]'`",
    ):
        motion_px_per_frame(drifting(1))
