"""Lists the worlds that clips are recorded in: what makes each, its scenes, and who plays them.

A player takes (scene, rng_seed) and gives episodes without end, each a list of clips, each FRAMES frames
uint8 [H, W, 3]. Packages are imported when their world is first played, so that one that is not installed
hurts nobody else.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Generator
from dataclasses import dataclass

import numpy as np

from bench.clips.errors import WorldError

Clip = list[np.ndarray]
Player = Callable[[str, int], Generator[list[Clip], None, None]]


@dataclass(frozen=True)
class World:
    """Describes one source of footage."""

    packages: tuple[str, ...]
    scenes: tuple[str, ...]
    player: Player


def _vizdoom(scene: str, rng_seed: int) -> Generator[list[Clip], None, None]:
    from examples.gameplay import GAMES, episodes

    return episodes(GAMES[scene], rng_seed)


def _crafter(scene: str, rng_seed: int) -> Generator[list[Clip], None, None]:
    from bench.clips.survival import episodes

    return episodes(scene, rng_seed)


def _metaworld(scene: str, rng_seed: int) -> Generator[list[Clip], None, None]:
    from bench.clips.robots import episodes

    return episodes(scene, rng_seed)


WORLDS: dict[str, World] = {
    "vizdoom": World(
        ("vizdoom", "cv2"),
        ("health_gathering", "defend_the_center", "my_way_home", "take_cover", "deadly_corridor"),
        _vizdoom,
    ),
    "crafter": World(("crafter",), ("wander", "stroll", "gather"), _crafter),
    "metaworld": World(
        ("metaworld", "mujoco"),
        (
            "assembly-v3",
            "basketball-v3",
            "button-press-topdown-v3",
            "coffee-pull-v3",
            "dial-turn-v3",
            "door-open-v3",
            "drawer-open-v3",
            "faucet-open-v3",
            "hammer-v3",
            "lever-pull-v3",
            "pick-place-v3",
            "plate-slide-v3",
            "push-v3",
            "shelf-place-v3",
            "soccer-v3",
            "window-open-v3",
        ),
        _metaworld,
    ),
}


def check_installed(names: tuple[str, ...]) -> None:
    """Raises WorldError when a package of a world that is asked for is missing."""
    for name in names:
        if missing := missing_packages(name):
            others = ",".join(other for other in names if other != name) or "another world"
            raise WorldError(
                f"the world {name} needs {' and '.join(missing)}, which is not installed: "
                "pip install -e '.[bench]', "
                f"or go on without it: --domains {others}"
            )


def missing_packages(name: str) -> list[str]:
    """Returns the packages of a world that are not installed."""
    return [package for package in WORLDS[name].packages if importlib.util.find_spec(package) is None]
