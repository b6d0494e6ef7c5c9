"""Finds where a video is cut: PySceneDetect's adaptive detector runs on small pictures that we decode.

It compares the change in hue, saturation and brightness with a rolling mean, so that a moving camera is no
cut.
"""

from __future__ import annotations

from collections.abc import Callable

from paris_p2p.data.decode import Video

WIDTH_PIXELS = 128
LEAST_SCENE_S = 0.5


def find_cuts(
    video: Video, progress: Callable[[float], None] = lambda _: None, threads: int = 1
) -> list[float]:
    """Returns the times in seconds at which a scene begins.

    `progress` is called with how far the reading is, in seconds. UnusableVideo without a frame.
    """
    from scenedetect import FrameTimecode
    from scenedetect.detectors import AdaptiveDetector

    rate = min(1000.0, max(1.0, 1 / video.track.frame_s))
    detector = AdaptiveDetector(min_scene_len=LEAST_SCENE_S)
    times_s: list[float] = []
    cuts: list[int] = []
    for time_s, pixels in video.pictures(WIDTH_PIXELS, threads):
        cuts += [cut.frame_num for cut in detector.process_frame(FrameTimecode(len(times_s), rate), pixels)]
        times_s.append(time_s)
        if len(times_s) % 250 == 0:
            progress(time_s)
    cuts += [cut.frame_num for cut in detector.post_process(FrameTimecode(max(0, len(times_s) - 1), rate))]
    return sorted({times_s[cut] for cut in cuts if 0 < cut < len(times_s)})
