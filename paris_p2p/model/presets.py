"""Names sizes of networks, and builds networks from the numbers that a RunSpec carries.

A config without an "architecture" makes a VideoDiT; a name in it is looked up in ARCHITECTURES, and nowhere
else. The counts of dit-b-2 and dit-xl-2 are Paris 1.0's (arXiv 2510.03434): 129M and 605M for an expert, 129M
for the router. mmdit-11b has the layout of FLUX and Open-Sora 2.0 (arXiv 2503.09642), which calls it 11B:
11.9B with T5-XXL and CLIP widths.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from paris_p2p.errors import PresetError, RecordError
from paris_p2p.model.network_numbers import check_network
from paris_p2p.spec import LatentShape, TextShape

if TYPE_CHECKING:
    from torch import nn

    from paris_p2p.model.dit import VideoDiT
    from paris_p2p.model.mmdit import MMDiT
    from paris_p2p.model.plain_dit import PlainVideoDiT
    from paris_p2p.model.plain_mmdit import PlainMMDiT
    from paris_p2p.model.plain_router import PlainRouter
    from paris_p2p.model.router import Router

    Expert = VideoDiT | MMDiT
    PlainExpert = PlainVideoDiT | PlainMMDiT

Config = dict[str, int | float | str | bool]

EXPERT_PRESETS: dict[str, Config] = {
    "nano":     {"width": 32,   "depth": 2,  "heads": 2},   # for tests
    "micro":    {"width": 128,  "depth": 4,  "heads": 4},   # minutes on a CPU
    "tiny":     {"width": 192,  "depth": 6,  "heads": 6},   # an hour on a CPU
    "small":    {"width": 384,  "depth": 12, "heads": 6},   # 4 GB of GPU memory
    "medium":   {"width": 768,  "depth": 16, "heads": 12},  # 8 GB
    "large":    {"width": 1024, "depth": 24, "heads": 16},  # 16 GB
    "dit-b-2":  {"width": 768,  "depth": 12, "heads": 12, "time_ratio": 4},  # Paris 1.0
    "dit-xl-2": {"width": 1152, "depth": 28, "heads": 16, "time_ratio": 4},  # Paris 1.0
}  # fmt: skip

_MMDIT: Config = {"architecture": "mmdit"}
_ROTARY: Config = {"rotary_base": 1e4}
MMDIT_PRESETS: dict[str, Config] = {
    "mmdit-nano": {**_MMDIT, "width": 32,   "double_depth": 1,  "single_depth": 2,  "heads": 2},  # for tests
    "mmdit-tiny": {**_MMDIT, "width": 128,  "double_depth": 3,  "single_depth": 6,  "heads": 4},  # a CPU
    "mmdit-11b":  {**_MMDIT, "width": 3072, "double_depth": 19, "single_depth": 38, "heads": 24, **_ROTARY},
}  # fmt: skip

ROUTER_PRESETS: dict[str, Config] = {
    "nano":     {"width": 32,  "depth": 1,  "heads": 2},
    "micro":    {"width": 96,  "depth": 3,  "heads": 3},
    "tiny":     {"width": 128, "depth": 4,  "heads": 4},
    "small":    {"width": 256, "depth": 8,  "heads": 4},
    "medium":   {"width": 384, "depth": 12, "heads": 6},
    "dit-b-2":  {"width": 768, "depth": 12, "heads": 12, "steer_per_block": True},  # Paris 1.0
}  # fmt: skip

PUBLISHED_ROUTERS = ("dit-b-2",)  # these cut patches as the experts do


def expert_config(
    preset: str,
    latent: LatentShape,
    text: TextShape,
    *,
    first_frame: bool = False,
    time_skip: bool = False,
) -> Config:
    """Returns every number of an expert of this size for such latents and text; PresetError.

    `first_frame` says whether it takes a first frame, `time_skip` whether patches reach its answer directly.
    """
    sizes: Config = {"channels": latent.channels, "text_width": text.dim, **_patch(latent)}
    if first_frame:
        sizes["first_frame"] = True  # absent when false, so that other runs' numbers stay as they are
    if time_skip:
        sizes["time_skip"] = True
    if preset in MMDIT_PRESETS:
        return {**MMDIT_PRESETS[preset], **sizes, "pooled_width": text.pooled_dim}
    return {**_preset("expert", EXPERT_PRESETS, preset, also=tuple(MMDIT_PRESETS)), **sizes}


def router_config(
    preset: str, latent: LatentShape, text: TextShape, experts: int, *, first_width: int = 0
) -> Config:
    """Returns every number of a router of this size; PresetError.

    `first_width` is the width of a first frame's features, 0 if it takes none.
    """
    sizes = {"channels": latent.channels, "pooled_width": text.pooled_dim, "experts": experts}
    if first_width:
        sizes["first_width"] = first_width
    config = _preset("router", ROUTER_PRESETS, preset)
    return {**config, **sizes, **(_patch(latent) if preset in PUBLISHED_ROUTERS else _coarse_patch(latent))}


def build_expert(config: Mapping[str, int | float | str | bool]) -> Expert:
    """Builds the expert with these numbers, freshly initialised; RecordError when they make none."""
    network: Expert = _built(_architecture(config).model(), _numbers(config))
    return network


def build_router(config: Mapping[str, int | float | str | bool]) -> Router:
    """Builds the router with these numbers, freshly initialised; RecordError when they make none."""
    from paris_p2p.model.router import Router

    network: Router = _built(Router, config)
    return network


def build_plain_expert(config: Mapping[str, int | float | str | bool]) -> PlainExpert:
    """Builds the same network as `build_expert`, with the same first weights, without diffusers, which takes
    longer to load than torch: what trains and measures neither saves nor reads models.
    """
    network: PlainExpert = _built(_architecture(config).plain(), _numbers(config))
    return network


def build_plain_router(config: Mapping[str, int | float | str | bool]) -> PlainRouter:
    """Builds the same network as `build_router`, without diffusers."""
    from paris_p2p.model.plain_router import PlainRouter

    network: PlainRouter = _built(PlainRouter, config)
    return network


def parameter_shapes(
    config: Mapping[str, int | float | str | bool], *, router: bool = False
) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each parameter of the network with these numbers, without memory for them."""
    import torch  # a node that asks for sizes alone does without

    from paris_p2p.model.layers import uninitialised

    with uninitialised(torch.device("meta")):
        network: nn.Module = build_plain_router(config) if router else build_plain_expert(config)
    return {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}


def count_parameters(config: Mapping[str, int | float | str | bool], *, router: bool = False) -> int:
    """Counts the parameters of the network with these numbers, without memory for them."""
    return sum(math.prod(shape) for shape in parameter_shapes(config, router=router).values())


def count_tokens(config: Mapping[str, int | float | str | bool], latent: tuple[int, int, int, int]) -> int:
    """Counts the patches of one clip of latents C, T, H, W: one at least, whatever the config says."""
    patch = [max(1, int(config.get(f"patch_{side}", 1))) for side in ("frames", "height", "width")]
    return math.prod(-(-size // side) for size, side in zip(latent[1:], patch, strict=True))


def _architecture(config: Mapping[str, int | float | str | bool]) -> Architecture:
    name = config.get("architecture", "video-dit")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise RecordError(
            f"the network's architecture is {str(name)[:80]!r}, not {' or '.join(ARCHITECTURES)}; "
            "is paris-p2p too old here?"
        )
    return ARCHITECTURES[name]


def _numbers(config: Mapping[str, int | float | str | bool]) -> Config:
    return {name: value for name, value in config.items() if name != "architecture"}


def _built(network: Callable[..., Any], numbers: Mapping[str, int | float | str | bool]) -> Any:
    check_network(numbers, network)
    return network(**numbers)


def _video_dit() -> type[VideoDiT]:
    from paris_p2p.model.dit import VideoDiT

    network: type[VideoDiT] = VideoDiT
    return network


def _plain_video_dit() -> type[PlainVideoDiT]:
    from paris_p2p.model.plain_dit import PlainVideoDiT

    return PlainVideoDiT


def _mmdit() -> type[MMDiT]:
    from paris_p2p.model.mmdit import MMDiT

    network: type[MMDiT] = MMDiT
    return network


def _plain_mmdit() -> type[PlainMMDiT]:
    from paris_p2p.model.plain_mmdit import PlainMMDiT

    return PlainMMDiT


@dataclass(frozen=True)
class Architecture:
    """Loads an expert's class, when it is asked for."""

    model: Callable[[], type[Expert]]  # of diffusers
    plain: Callable[[], type[PlainExpert]]


ARCHITECTURES = {
    "video-dit": Architecture(_video_dit, _plain_video_dit),
    "mmdit": Architecture(_mmdit, _plain_mmdit),
}


def _preset(kind: str, table: dict[str, Config], name: str, also: tuple[str, ...] = ()) -> Config:
    if name not in table:
        raise PresetError(f"no {kind} preset is called {name!r}; choose one of {', '.join((*table, *also))}")
    return table[name]


def _patch(latent: LatentShape) -> Config:
    """Returns patches of 2x2 in space where that divides, frame by frame, as in Paris."""
    return {"patch_frames": 1, "patch_height": 2 - latent.height % 2, "patch_width": 2 - latent.width % 2}


def _coarse_patch(latent: LatentShape) -> Config:
    """Returns patches of eight of an expert's patches, where that divides.

    A router is asked at every step, so it must cost next to nothing.
    """
    fine = _patch(latent)
    height, width = (
        4 if size % 4 == 0 else fine[name]
        for name, size in (("patch_height", latent.height), ("patch_width", latent.width))
    )
    return {"patch_frames": 2 - latent.frames % 2, "patch_height": height, "patch_width": width}
