"""Maps diffusers' FluxTransformer2DModel onto our MMDiT, which has the same layers.

Legend: D width, E width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from paris_p2p.model.layers import time_features
from paris_p2p.model.pieces import Piece, Pieces, SourceTensors, both, ends, linear

GUIDANCE = 1.0  # what a guidance-distilled FLUX is asked for: none, because ours is guided when it samples


def flux(source: SourceTensors, network: Any) -> Pieces:
    """Maps FLUX's tensors.

    FLUX turns neighbouring pairs of a head, our networks turn its two halves: rows are put in that order.
    """
    pieces = ends(network, ("embed", "x_embedder"), ("out", "proj_out"), "c p q")
    pieces |= linear("text_in", "context_embedder")
    for ours, theirs in (("time", "timestep"), ("pooled", "text")):
        for here, there in (("in", "linear_1"), ("out", "linear_2")):
            pieces |= linear(f"{ours}_{here}", f"time_text_embed.{theirs}_embedder.{there}")
    if "time_text_embed.guidance_embedder.linear_1.weight" in source:
        pieces["time_out.bias"] = _no_guidance()
    for n in range(len(network.double_blocks)):
        pieces |= _flux_double(network, n)
    for n in range(len(network.single_blocks)):
        pieces |= _flux_single(network, n)
    for part in ("weight", "bias"):
        pieces[f"last_steer.{part}"] = Piece(
            (f"norm_out.linear.{part}",), "shift before scale", _halves_swapped
        )
    return pieces


def _flux_double(network: Any, n: int) -> Pieces:
    there, pieces = f"transformer_blocks.{n}", Pieces()
    video_qkv, video_norms = ("to_q", "to_k", "to_v"), ("norm_q", "norm_k")
    text_qkv, text_norms = ("add_q_proj", "add_k_proj", "add_v_proj"), ("norm_added_q", "norm_added_k")
    streams = (
        ("video", "norm1", video_qkv, "to_out.0", video_norms, "ff"),
        ("text", "norm1_context", text_qkv, "to_add_out", text_norms, "ff_context"),
    )
    for stream, steer, qkv, out, norms, mlp in streams:
        here = f"double_blocks.{n}.{stream}"
        pieces |= linear(f"{here}.steer", f"{there}.{steer}.linear") | linear(
            f"{here}.out", f"{there}.attn.{out}"
        )
        pieces |= _turned(f"{here}.qkv", [f"{there}.attn.{name}" for name in qkv], network)
        pieces |= _turned_norms(f"{here}.norms", [f"{there}.attn.{name}.weight" for name in norms])
        pieces |= linear(f"{here}.up", f"{there}.{mlp}.net.0.proj") | linear(
            f"{here}.down", f"{there}.{mlp}.net.2"
        )
    return pieces


def _flux_single(network: Any, n: int) -> Pieces:
    here, there = f"single_blocks.{n}", f"single_transformer_blocks.{n}"
    pieces = linear(f"{here}.steer", f"{there}.norm.linear") | linear(f"{here}.down", f"{there}.proj_out")
    pieces |= _turned(
        f"{here}.up", [*(f"{there}.attn.to_{name}" for name in "qkv"), f"{there}.proj_mlp"], network
    )
    return pieces | _turned_norms(f"{here}.norms", [f"{there}.attn.norm_{name}.weight" for name in "qk"])


def _turned(ours: str, theirs: list[str], network: Any) -> Pieces:
    """Stacks queries, keys, values and what stands beside them, queries and keys in our rotary order."""
    head_width = int(network.config["width"]) // int(network.config["heads"])

    def stacked(q: Tensor, k: Tensor, *others: Tensor) -> Tensor:
        return torch.cat([halves_from_pairs(q, head_width), halves_from_pairs(k, head_width), *others])

    how = "stacked, queries and keys in our rotary order"
    return {
        f"{ours}.{part}": Piece(tuple(f"{name}.{part}" for name in theirs), how, stacked)
        for part in ("weight", "bias")
    }


def _turned_norms(ours: str, theirs: list[str]) -> Pieces:
    def turned(entries: Tensor) -> Tensor:
        return halves_from_pairs(entries, len(entries))

    return {
        f"{ours}.{side}": Piece((name,), "in our rotary order", turned)
        for side, name in zip("qk", theirs, strict=True)
    }


def halves_from_pairs(rows: Tensor, head_width: int) -> Tensor:
    """Reorders the rows (or entries) of each head to 0 2 4 … 1 3 5 …, so that a pair becomes (e, e + E/2)."""
    reordered: Tensor = rearrange(rows, "(a e two) ... -> (a two e) ...", e=head_width // 2, two=2)
    return reordered


def _halves_swapped(rows: Tensor) -> Tensor:
    return torch.cat(rows.chunk(2)[::-1])


def _no_guidance() -> Piece:
    """Folds a guidance-distilled model's embedding of guidance 1, a constant, into the bias beside it."""

    def folded(bias: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
        hidden = F.silu(F.linear(time_features(torch.tensor([GUIDANCE])), weight1.float(), bias1.float()))
        return bias.float() + F.linear(hidden, weight2.float(), bias2.float())[0]

    inside = "time_text_embed.guidance_embedder"
    guidance = both(f"{inside}.linear_1", f"{inside}.linear_2")
    names = ("time_text_embed.timestep_embedder.linear_2.bias", *guidance)
    return Piece(names, f"with the guidance embedding at {GUIDANCE:g} added", folded)
