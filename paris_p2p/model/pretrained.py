"""Starts an expert from somebody else's checkpoint: which family it is, whether it fits, what went where."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from paris_p2p.errors import UsageError
from paris_p2p.model.flux_keys import flux
from paris_p2p.model.key_maps import diffusers_dit, original_dit, our_own, pixart
from paris_p2p.model.pieces import Piece, Pieces, SourceTensors
from paris_p2p.model.presets import EXPERT_PRESETS, MMDIT_PRESETS, Config

# What depends on the run's latents and text rather than on the network's size: it stays as it starts when the
# checkpoint's does not fit.
_EDGES = re.compile(r"embed\.|first_in\.|out\.|text_in\.|pooled_in\.|null_")
_AXES = (16, 56, 56)  # FLUX's rotary entries of a head, where the checkpoint does not say


@dataclass(frozen=True)
class Family:
    """Describes one row of the table of checkpoints that are understood."""

    name: str
    marker: str  # a tensor that only this family has
    architecture: str
    width: tuple[str, int]  # a tensor and which of its sides is the width
    depths: Mapping[str, str]  # our number -> the prefix before a block's number
    pieces: Callable[[SourceTensors, Any], Pieces]


_DEPTH, _DIFFUSERS = {"depth": "blocks"}, {"depth": "transformer_blocks"}
_OURS = {"double_depth": "double_blocks", "single_depth": "single_blocks"}
_FLUX = {"double_depth": "transformer_blocks", "single_depth": "single_transformer_blocks"}
_QKV, _TIME = "double_blocks.0.video.qkv.weight", "t_embedder.mlp.0.weight"
_ONE, _TIMES = "adaln_single.linear.weight", "time_text_embed.timestep_embedder.linear_1.weight"
_LAST, _TEXT = "proj_out_1.weight", "context_embedder.weight"
# fmt: off
FAMILIES = (
    Family("our VideoDiT",   "last_table", "video-dit", ("last_table", 1), _DEPTH,     our_own),
    Family("our MMDiT",      _QKV,         "mmdit",     (_QKV, 1),         _OURS,      our_own),
    Family("DiT",            _TIME,        "video-dit", (_TIME, 0),        _DEPTH,     original_dit),
    Family("diffusers' DiT", _LAST,        "video-dit", (_LAST, 1),        _DIFFUSERS, diffusers_dit),
    Family("PixArt",         _ONE,         "video-dit", (_ONE, 1),         _DIFFUSERS, pixart),
    Family("FLUX",           _TIMES,       "mmdit",     (_TEXT, 0),        _FLUX,      flux),
)
# fmt: on


@dataclass(frozen=True)
class Start:
    """Holds an expert's first weights, and the account of them."""

    family: str
    tensors: dict[str, Tensor]
    taken: dict[str, tuple[tuple[str, ...], str]]  # our tensor -> the checkpoint's, and how
    left: dict[str, str]  # our tensor -> why it is as it starts
    unused: tuple[str, ...]  # the checkpoint's tensors

    def describe(self) -> str:
        """Returns one line for each thing that was done.

        What differs only by a block's number has one line.
        """
        lines = [f"first weights from {self.family}: {len(self.taken)} of our {len(self.tensors)} tensors"]
        rows: dict[str, Counter[str]] = {}
        for ours, (theirs, how) in self.taken.items():
            rows.setdefault(f"{_named(theirs)} ({how})", Counter())[_plain(ours)] += 1
        for row, names in rows.items():
            count = max(names.values())
            lines.append(f"  {', '.join(names)} <- {row}" + (f"  x{count}" if count > 1 else ""))
        lines += _listed("ours, left as they start", (f"{name}: {why}" for name, why in self.left.items()))
        lines += _listed("the checkpoint's, not used", self.unused)
        return "\n".join(lines)


def family_of(names: Iterable[str]) -> Family:
    """Returns the family of a checkpoint by its tensors' names; UsageError when they are of none here."""
    here = set(names)
    for family in FAMILIES:
        if family.marker in here:
            return family
    known = ", ".join(family.name for family in FAMILIES)
    raise UsageError(
        f"no map for a checkpoint with tensors like {sorted(here)[:3]}; it must be one of: {known}"
    )


def fitted_config(config: Config, source: SourceTensors, numbers: Mapping[str, Any]) -> Config:
    """Checks the expert's numbers against the checkpoint's; for FLUX it returns them with FLUX's rotary.

    `numbers` is the checkpoint's config.json. UsageError says both sizes, and which preset would fit.
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
def start_from(network: Any, source: SourceTensors) -> Start:
    """Returns the network's tensors with the source's in their place, float32.

    UsageError lists what is missing or does not fit.
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
        # torch and einops raise these for shapes that do not go together.
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
    return _assembled(family, own, pieces, source)


def _assembled(family: Family, own: dict[str, Tensor], pieces: Pieces, source: SourceTensors) -> Start:
    """Puts each piece in the place of our tensor where its shape fits; UsageError lists what does not."""
    made, wrong = dict(own), list[str]()
    taken: dict[str, tuple[tuple[str, ...], str]] = {}
    left: dict[str, str] = {}
    for name, ours in own.items():
        if name not in pieces:
            left[name] = "nothing in the checkpoint fits here"
            continue
        theirs = _made(name, pieces[name], source)
        if theirs.shape == ours.shape:
            made[name], taken[name] = theirs.float().contiguous(), (pieces[name].theirs, pieces[name].how)
        elif _EDGES.match(name):
            left[name] = f"the checkpoint's is {list(theirs.shape)}, ours {list(ours.shape)}"
        else:
            would = f"made of the checkpoint's it would be {list(theirs.shape)}"
            wrong.append(f"{name} is {list(ours.shape)}, {would}")
    if wrong:
        raise UsageError(f"the checkpoint does not fit the expert: {_some(wrong, '; ')}")
    used = {name for theirs, _ in taken.values() for name in theirs}
    return Start(family.name, made, taken, left, tuple(sorted(set(source) - used)))


def _made(name: str, piece: Piece, source: SourceTensors) -> Tensor:
    try:
        return piece.make(source)
    except (RuntimeError, ValueError) as error:
        shapes = [list(source[theirs].shape) for theirs in piece.theirs]
        raise UsageError(
            f"{name} cannot be made of {_some(list(piece.theirs))}, which are {shapes}: {str(error)[:200]}"
        ) from error


def _sizes(family: Family, source: SourceTensors, numbers: Mapping[str, Any]) -> dict[str, int]:
    """Returns the checkpoint's width, blocks and, where it can be known, heads."""
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
    flux_norm, our_norm = "transformer_blocks.0.attn.norm_q.weight", "double_blocks.0.video.norms.q"
    norm = flux_norm if family.name == "FLUX" else our_norm
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
    if not rows:
        return []
    return [f"{title}:", *(f"  {row}" + (f"  x{count}" if count > 1 else "") for row, count in rows.items())]
