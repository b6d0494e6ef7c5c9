"""An expert's first weights from somebody else's checkpoint: which family it is of, whether it fits, and
what went where.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from paris_p2p.errors import UsageError
from paris_p2p.model import key_maps
from paris_p2p.model.key_maps import Piece, Pieces, Source
from paris_p2p.model.presets import EXPERT_PRESETS, MMDIT_PRESETS, Config

# What depends on the run's latents and text rather than on the network's size: left as it starts when theirs
# does not fit.
_EDGES = re.compile(r"embed\.|first_in\.|out\.|text_in\.|pooled_in\.|null_")
_AXES = (16, 56, 56)  # FLUX's rotary entries of a head, where the checkpoint does not say


@dataclass(frozen=True)
class Family:
    """One row of the table of checkpoints that are understood."""

    name: str
    marker: str  # a tensor that only this family has
    architecture: str
    width: tuple[str, int]  # a tensor and which of its sides is the width
    depths: Mapping[str, str]  # our number -> the prefix before a block's number
    pieces: Callable[[Source, Any], Pieces]


_DEPTH, _DIFFUSERS = {"depth": "blocks"}, {"depth": "transformer_blocks"}
FAMILIES = (
    Family("our VideoDiT", "last_table", "video-dit", ("last_table", 1), _DEPTH, key_maps.our_own),
    Family(
        "our MMDiT",
        "double_blocks.0.video.qkv.weight",
        "mmdit",
        ("double_blocks.0.video.qkv.weight", 1),
        {"double_depth": "double_blocks", "single_depth": "single_blocks"},
        key_maps.our_own,
    ),
    Family(
        "DiT",
        "t_embedder.mlp.0.weight",
        "video-dit",
        ("t_embedder.mlp.0.weight", 0),
        _DEPTH,
        key_maps.original_dit,
    ),
    Family(
        "diffusers' DiT",
        "proj_out_1.weight",
        "video-dit",
        ("proj_out_1.weight", 1),
        _DIFFUSERS,
        key_maps.diffusers_dit,
    ),
    Family(
        "PixArt",
        "adaln_single.linear.weight",
        "video-dit",
        ("adaln_single.linear.weight", 1),
        _DIFFUSERS,
        key_maps.pixart,
    ),
    Family(
        "FLUX",
        "time_text_embed.timestep_embedder.linear_1.weight",
        "mmdit",
        ("context_embedder.weight", 0),
        {"double_depth": "transformer_blocks", "single_depth": "single_transformer_blocks"},
        key_maps.flux,
    ),
)


@dataclass(frozen=True)
class Start:
    """An expert's first weights, and the account of them."""

    family: str
    tensors: dict[str, Tensor]
    taken: dict[str, tuple[tuple[str, ...], str]]  # ours -> theirs, how
    left: dict[str, str]  # ours -> why it is as it starts
    unused: tuple[str, ...]  # theirs

    def describe(self) -> str:
        """One line for each thing that was done; what differs by a block's number only is told once."""
        lines = [f"first weights from {self.family}: {len(self.taken)} of our {len(self.tensors)} tensors"]
        rows: dict[str, Counter[str]] = {}
        for ours, (theirs, how) in self.taken.items():
            rows.setdefault(f"{_named(theirs)} ({how})", Counter())[_plain(ours)] += 1
        for row, names in rows.items():
            count = max(names.values())
            lines.append(f"  {', '.join(names)} <- {row}" + (f"  x{count}" if count > 1 else ""))
        lines += _listed("ours, left as they start", (f"{name}: {why}" for name, why in self.left.items()))
        lines += _listed("theirs, not used", self.unused)
        return "\n".join(lines)


def family_of(names: Iterable[str]) -> Family:
    """UsageError when the tensors' names are of no family here."""
    here = set(names)
    for family in FAMILIES:
        if family.marker in here:
            return family
    known = ", ".join(family.name for family in FAMILIES)
    raise UsageError(
        f"no map for a checkpoint with tensors like {sorted(here)[:3]}; it must be one of: {known}"
    )


def fitted_config(config: Config, source: Source, numbers: Mapping[str, Any]) -> Config:
    """The expert's numbers, checked against the checkpoint's, with FLUX's rotary where it is FLUX. `numbers`
    is their config.json.

    UsageError says both sizes, and which preset would fit.
    """
    family = family_of(source)
    theirs = _sizes(family, source, numbers)
    ours = {name: config[name] for name in theirs if name in config}
    if config.get("architecture", "video-dit") != family.architecture or ours != theirs:
        presets = [
            name
            for name, preset in {**EXPERT_PRESETS, **MMDIT_PRESETS}.items()
            if _fits(preset, family, theirs)
        ]
        advice = f"--expert {' or '.join(presets)} fits" if presets else "no preset has these sizes"
        sizes = {
            name: value for name, value in config.items() if name in ("width", "heads") or "depth" in name
        }
        raise UsageError(
            f"the checkpoint is {family.name} with {_said(theirs)}, "
            f"the expert is {config.get('architecture', 'video-dit')} with {_said(sizes)}; {advice}"
        )
    if family.name != "FLUX":
        return config
    axes = numbers.get("axes_dims_rope", _AXES)
    head = int(config["width"]) // int(config["heads"])
    if not isinstance(axes, (list, tuple)) or not all(type(axis) is int and axis > 0 for axis in axes):
        raise UsageError(
            f"the checkpoint's axes_dims_rope is {str(axes)[:60]}, not three numbers; fetch it again"
        )
    if len(axes) != 3 or sum(axes) != head or axes[1] != axes[2] or any(axis % 2 for axis in axes):
        raise UsageError(
            f"the checkpoint's rotary entries {list(axes)} of a head of {head} are not FLUX's: "
            "first, then twice the same"
        )
    return {**config, "rotary_base": 1e4, "rotary_frame_pairs": axes[0] // 2}


@torch.no_grad()
def start_from(network: Any, source: Source) -> Start:
    """The network's tensors with the source's in their place, float32; UsageError lists what is missing or
    does not fit.
    """
    family = family_of(source)
    own = {name: parameter.detach() for name, parameter in network.named_parameters()}
    try:
        pieces = family.pieces(source, network)
    except KeyError as error:
        raise UsageError(
            f"the checkpoint is {family.name}, but has no tensor {error}; "
            "fetch it again, or name the whole folder"
        ) from error
    except (RuntimeError, IndexError) as error:
        # torch's and einops' words for shapes that do not go together
        raise UsageError(
            f"the checkpoint is {family.name}, but its layers of time do not fit each other: "
            f"{str(error)[:200]}"
        ) from error
    missing = sorted({name for piece in pieces.values() for name in piece.theirs} - set(source))
    if missing:
        raise UsageError(
            f"the checkpoint is {family.name}, but lacks {_some(missing)}; "
            "fetch it again, or name the whole folder"
        )
    made, taken, left, wrong = (
        dict(own),
        dict[str, tuple[tuple[str, ...], str]](),
        dict[str, str](),
        list[str](),
    )
    for name, ours in own.items():
        if name not in pieces:
            left[name] = "nothing of theirs fits here"
            continue
        theirs = _made(name, pieces[name], source)
        if theirs.shape == ours.shape:
            made[name], taken[name] = theirs.float().contiguous(), (pieces[name].theirs, pieces[name].how)
        elif _EDGES.match(name):
            left[name] = f"theirs is {list(theirs.shape)}, ours {list(ours.shape)}"
        else:
            wrong.append(f"{name} is {list(ours.shape)}, made of theirs it would be {list(theirs.shape)}")
    if wrong:
        raise UsageError(f"the checkpoint does not fit the expert: {_some(wrong, '; ')}")
    used = {name for theirs, _ in taken.values() for name in theirs}
    return Start(family.name, made, taken, left, tuple(sorted(set(source) - used)))


def _made(name: str, piece: Piece, source: Source) -> Tensor:
    try:
        return piece.make(source)
    except (RuntimeError, ValueError) as error:
        shapes = [list(source[theirs].shape) for theirs in piece.theirs]
        raise UsageError(
            f"{name} cannot be made of {_some(list(piece.theirs))}, which are {shapes}: {str(error)[:200]}"
        ) from error


def _sizes(family: Family, source: Source, numbers: Mapping[str, Any]) -> dict[str, int]:
    """Width, blocks and, where it can be known, heads."""
    tensor, side = family.width
    if tensor not in source or source[tensor].dim() <= side:
        raise UsageError(
            f"the checkpoint is {family.name}, but lacks {tensor} as a matrix; "
            "fetch it again, or name the whole folder"
        )
    sizes = {"width": int(source[tensor].shape[side])}
    for ours, prefix in family.depths.items():
        found = {int(match[1]) for name in source if (match := re.match(rf"{prefix}\.(\d{{1,4}})\.", name))}
        sizes[ours] = len(found)
    heads = numbers.get("num_attention_heads", numbers.get("heads", numbers.get("num_heads")))
    norm = (
        "transformer_blocks.0.attn.norm_q.weight"
        if family.name == "FLUX"
        else "double_blocks.0.video.norms.q"
    )
    if norm in source:
        heads = sizes["width"] // len(source[norm])
    return sizes | ({"heads": heads} if isinstance(heads, int) else {})


def _fits(preset: Config, family: Family, sizes: Mapping[str, int]) -> bool:
    return preset.get("architecture", "video-dit") == family.architecture and all(
        preset.get(name) == size for name, size in sizes.items()
    )


def _said(sizes: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {size}" for name, size in sizes.items())


def _some(names: list[str], between: str = ", ") -> str:
    return between.join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _plain(name: str) -> str:
    return re.sub(r"\.\d+\.", ".N.", name, count=1)


def _named(theirs: tuple[str, ...]) -> str:
    return " + ".join(dict.fromkeys(_plain(name) for name in theirs))


def _listed(title: str, names: Iterable[str]) -> list[str]:
    rows = Counter(_plain(name) for name in names)
    return (
        [f"{title}:", *(f"  {row}" + (f"  x{count}" if count > 1 else "") for row, count in rows.items())]
        if rows
        else []
    )
