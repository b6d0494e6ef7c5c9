"""Films Meta-World's robot arm (Yu et al. 2020, arXiv 1910.10897), driven by its scripted experts."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from typing import Any

import cv2
import numpy as np

from bench.clips.errors import WorldError
from examples.gameplay import FRAMES, SIDE_PIXELS

os.environ.setdefault("MUJOCO_GL", "egl")  # before mujoco is imported, which reads it once
os.environ.setdefault("LP_NUM_THREADS", "1")  # Mesa's software renderer: workers are processes already

try:
    import metaworld
    import mujoco
    from metaworld.policies import ENV_POLICY_MAP
except (ImportError, AttributeError) as error:  # PyOpenGL without the library is an AttributeError
    raise WorldError(
        f"MuJoCo cannot draw with MUJOCO_GL={os.environ['MUJOCO_GL']} ({error}). On Debian or Ubuntu: "
        "apt install libegl1, "
        "or apt install libosmesa6 and set MUJOCO_GL=osmesa; or go on without it: --domains vizdoom,crafter"
    ) from error

CAMERA = "corner2"
DRAWN_PIXELS = 2 * SIDE_PIXELS  # halved by area: cheaper than multisampling in a software renderer
STEPS_A_FRAME = 4  # of 1/80 s
CLIPS_AN_EPISODE = 5
NOISE = 0.15  # on the expert's actions, so that no two episodes are the same


def episodes(scene: str, rng_seed: int) -> Generator[list[list[np.ndarray]], None, None]:
    """Yields episodes of the task `scene` without end, each from another starting position, a few clips
    each.
    """
    benchmark = metaworld.MT1(scene, seed=rng_seed)
    env = benchmark.train_classes[scene]()
    expert = ENV_POLICY_MAP[scene]()
    rng = np.random.default_rng(rng_seed)
    renderer = _renderer(env.model)
    try:
        for number in range(1 << 30):
            env.set_task(benchmark.train_tasks[number % len(benchmark.train_tasks)])
            observation, _ = env.reset(seed=rng_seed + number)
            yield list(_clips(env, expert, observation, renderer, rng))
    finally:
        renderer.close()
        env.close()


def _renderer(model: Any) -> Any:
    """Returns a renderer without shadows, reflections and multisampling, which cost ten times the rest
    without a GPU.
    """
    model.vis.quality.offsamples = 0
    model.vis.quality.shadowsize = 0
    try:
        renderer = mujoco.Renderer(model, DRAWN_PIXELS, DRAWN_PIXELS)
    except (RuntimeError, mujoco.FatalError) as error:
        raise WorldError(
            f"MuJoCo cannot draw with MUJOCO_GL={os.environ['MUJOCO_GL']} ({error}). "
            "Try MUJOCO_GL=osmesa (apt install libosmesa6), "
            "or go on without it: --domains vizdoom,crafter"
        ) from error
    renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False
    renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
    return renderer


def _clips(
    env: Any, expert: Any, observation: np.ndarray, renderer: Any, rng: np.random.Generator
) -> Iterator[list[np.ndarray]]:
    """Yields up to CLIPS_AN_EPISODE clips with gaps; the episode ends when the task is done or time is up."""
    for _ in range(CLIPS_AN_EPISODE):
        clip: list[np.ndarray] = []
        gap = int(rng.integers(0, 12))
        for step in range(gap + FRAMES * STEPS_A_FRAME):
            action = expert.get_action(observation) + rng.normal(0, NOISE, 4)
            observation, _, _, truncated, information = env.step(np.clip(action, -1, 1).astype(np.float32))
            if truncated:
                return
            if step >= gap and (step - gap) % STEPS_A_FRAME == 0:
                clip.append(_draw(env, renderer))
        yield clip
        if information["success"] > 0:  # from here on it only trembles
            return


def _draw(env: Any, renderer: Any) -> np.ndarray:
    renderer.update_scene(env.data, camera=CAMERA)
    upright = renderer.render()[::-1, ::-1]  # this camera hangs upside down
    return cv2.resize(np.ascontiguousarray(upright), (SIDE_PIXELS, SIDE_PIXELS), interpolation=cv2.INTER_AREA)
