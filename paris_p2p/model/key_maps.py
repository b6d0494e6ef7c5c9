"""Where each tensor of our experts comes from in another family's checkpoint: one function a family, pure,
tensors read when made.

Images become clips as in I3D (arXiv 1705.07750, section 3.1): a patch over several frames gets the image's
weights divided by their number, so that a still clip gives what its image gave; every frame is read out as
the image was.
Legend: D width, E width of a head, C channels, F H W frames, height and width of a patch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor

from paris_p2p.model.layers import Patch, time_features
from paris_p2p.model.steering import Steering, embedded_times, fit_steering

Source = Mapping[str, Tensor]
AS_IT_IS = "as it is"
GUIDANCE = 1.0  # what a guidance-distilled FLUX is asked for: none, because ours is guided when it samples


@dataclass(frozen=True)
class Piece:
    """One of our tensors: `of` what is read of theirs, or `ready` where making it took all of them at
    once.
    """

    theirs: tuple[str, ...]
    how: str
    of: Callable[..., Tensor] | None = None
    ready: Tensor | None = None

    def make(self, source: Source) -> Tensor:
        """Ours, in its shape if theirs had the right one. KeyError when one of theirs is not there."""
        if self.ready is not None:
            return self.ready
        read = [source[name] for name in self.theirs]
        return self.of(*read) if self.of is not None else read[0]


Pieces = dict[str, Piece]


def our_own(source: Source, network: Any) -> Pieces:
    """A checkpoint of the same network, from an export or a file."""
    names = (
        name for name, _ in network.named_parameters() if not name.startswith("first_in.") or name in source
    )
    pieces = {name: Piece((name,), AS_IT_IS) for name in names}
    same = "out.weight" in source and source["out.weight"].shape == network.out.weight.shape
    return pieces if same else pieces | _ends(network, ("embed", "embed"), ("out", "out"), "c p q")


def original_dit(source: Source, network: Any) -> Pieces:
    """facebookresearch/DiT: `blocks.N.attn.qkv`, `adaLN_modulation`; the label's embedding is the one for
    no label.
    """
    pieces = _ends(network, ("embed", "x_embedder.proj"), ("out", "final_layer.linear"), "p q c")
    for n in range(len(network.blocks)):
        block = f"blocks.{n}"
        pieces |= _linear(f"{block}.attention.qkv", f"{block}.attn.qkv") | _linear(
            f"{block}.attention.out", f"{block}.attn.proj"
        )
        pieces |= _linear(f"{block}.up", f"{block}.mlp.fc1") | _linear(f"{block}.down", f"{block}.mlp.fc2")
        pieces |= _head_sizes(f"{block}.attention", (f"{block}.attn.qkv",), network)
    label = "y_embedder.embedding_table.weight"
    times, no_label = ("t_embedder.mlp.0", "t_embedder.mlp.2"), source[label][-1].float()
    steering = _dit_steering(
        source, network, times, no_label, "blocks.{}.adaLN_modulation.1", "final_layer.adaLN_modulation.1"
    )
    theirs = _both(
        *times,
        *(f"blocks.{n}.adaLN_modulation.1" for n in range(len(network.blocks))),
        "final_layer.adaLN_modulation.1",
    )
    return pieces | _steered(steering, (*theirs, label))


def diffusers_dit(source: Source, network: Any) -> Pieces:
    """diffusers' DiTTransformer2DModel, where every block has a copy of the time's and the label's
    embedding.
    """
    pieces = _ends(network, ("embed", "pos_embed.proj"), ("out", "proj_out_2"), "p q c") | _diffusers_blocks(
        network
    )
    inside = "transformer_blocks.{}.norm1"
    embedders = [f"{inside.format(n)}.emb" for n in range(len(network.blocks))]
    label = "class_embedder.embedding_table.weight"
    times = (f"{embedders[0]}.timestep_embedder.linear_1", f"{embedders[0]}.timestep_embedder.linear_2")
    no_label = source[f"{embedders[0]}.{label}"][-1].float()
    steering = _dit_steering(source, network, times, no_label, inside + ".linear", "proj_out_1")
    copies = [f"{name}.timestep_embedder.linear_{layer}" for name in embedders for layer in (1, 2)]
    theirs = _both(*copies, *(f"{inside.format(n)}.linear" for n in range(len(network.blocks))), "proj_out_1")
    return pieces | _steered(steering, (*theirs, *(f"{name}.{label}" for name in embedders)))


def pixart(source: Source, network: Any) -> Pieces:
    """diffusers' PixArtTransformer2DModel (PixArt-alpha and -sigma): one time MLP and tables, text by
    cross-attention.

    Their captions go through a non-linear projection that ours lacks: with one, or with text of another
    width, text attention stays as it starts with us, without a say.
    """
    pieces = _ends(network, ("embed", "pos_embed.proj"), ("out", "proj_out"), "p q c") | _diffusers_blocks(
        network
    )
    keys = source["transformer_blocks.0.attn2.to_k.weight"]
    if "caption_projection.linear_1.weight" not in source and keys.shape[-1] == int(
        network.config["text_width"]
    ):
        for n in range(len(network.blocks)):
            here, there = f"blocks.{n}.text", f"transformer_blocks.{n}.attn2"
            pieces |= _linear(f"{here}.q", f"{there}.to_q") | _linear(f"{here}.out", f"{there}.to_out.0")
            pieces |= _linear(f"{here}.kv", f"{there}.to_k", f"{there}.to_v")
            pieces |= _head_sizes(here, (f"{there}.to_q", f"{there}.to_k"), network)
    times = ("adaln_single.emb.timestep_embedder.linear_1", "adaln_single.emb.timestep_embedder.linear_2")
    embedded = embedded_times(_pair(source, times[0]), _pair(source, times[1]))  # [S D]
    shared = _projected(source, "adaln_single.linear", embedded, 6)  # [S 6 D]
    tables = [f"transformer_blocks.{n}.scale_shift_table" for n in range(len(network.blocks))]
    last = embedded[:, None] + source["scale_shift_table"].float()  # [S 2 D]
    blocks = (shared + source[name].float() for name in tables)
    steering = fit_steering(blocks, last, _pair(source, times[0]), _own_time_in(network))
    return pieces | _steered(steering, (*_both(*times, "adaln_single.linear"), *tables, "scale_shift_table"))


def flux(source: Source, network: Any) -> Pieces:
    """diffusers' FluxTransformer2DModel. FLUX turns neighbouring pairs of a head, ours turn the two
    halves: rows are put in that order.
    """
    pieces = _ends(network, ("embed", "x_embedder"), ("out", "proj_out"), "c p q")
    pieces |= _linear("text_in", "context_embedder")
    for ours, theirs in (("time", "timestep"), ("pooled", "text")):
        for here, there in (("in", "linear_1"), ("out", "linear_2")):
            pieces |= _linear(f"{ours}_{here}", f"time_text_embed.{theirs}_embedder.{there}")
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
    streams = (
        ("video", "norm1", ("to_q", "to_k", "to_v"), "to_out.0", ("norm_q", "norm_k"), "ff"),
        (
            "text",
            "norm1_context",
            ("add_q_proj", "add_k_proj", "add_v_proj"),
            "to_add_out",
            ("norm_added_q", "norm_added_k"),
            "ff_context",
        ),
    )
    for stream, steer, qkv, out, norms, mlp in streams:
        here = f"double_blocks.{n}.{stream}"
        pieces |= _linear(f"{here}.steer", f"{there}.{steer}.linear") | _linear(
            f"{here}.out", f"{there}.attn.{out}"
        )
        pieces |= _turned(f"{here}.qkv", [f"{there}.attn.{name}" for name in qkv], network)
        pieces |= _turned_norms(f"{here}.norms", [f"{there}.attn.{name}.weight" for name in norms])
        pieces |= _linear(f"{here}.up", f"{there}.{mlp}.net.0.proj") | _linear(
            f"{here}.down", f"{there}.{mlp}.net.2"
        )
    return pieces


def _flux_single(network: Any, n: int) -> Pieces:
    here, there = f"single_blocks.{n}", f"single_transformer_blocks.{n}"
    pieces = _linear(f"{here}.steer", f"{there}.norm.linear") | _linear(f"{here}.down", f"{there}.proj_out")
    pieces |= _turned(
        f"{here}.up", [*(f"{there}.attn.to_{name}" for name in "qkv"), f"{there}.proj_mlp"], network
    )
    return pieces | _turned_norms(f"{here}.norms", [f"{there}.attn.norm_{name}.weight" for name in "qk"])


def halves_from_pairs(rows: Tensor, head_width: int) -> Tensor:
    """Rows (or entries) of each head: 0 2 4 … 1 3 5 …, so that what was a neighbouring pair is (e, e +
    E/2).
    """
    reordered: Tensor = rearrange(rows, "(a e two) ... -> (a two e) ...", e=head_width // 2, two=2)
    return reordered


def _halves_swapped(rows: Tensor) -> Tensor:
    return torch.cat(rows.chunk(2)[::-1])


def _turned(ours: str, theirs: list[str], network: Any) -> Pieces:
    """Queries, keys, values and what stands beside them as one layer, queries and keys in our rotary
    order.
    """
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


def _no_guidance() -> Piece:
    """A guidance-distilled model's embedding of guidance 1 is a constant: it goes into the bias beside it."""

    def folded(bias: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
        hidden = F.silu(F.linear(time_features(torch.tensor([GUIDANCE])), weight1.float(), bias1.float()))
        return bias.float() + F.linear(hidden, weight2.float(), bias2.float())[0]

    inside = "time_text_embed.guidance_embedder"
    names = (
        "time_text_embed.timestep_embedder.linear_2.bias",
        *_both(f"{inside}.linear_1", f"{inside}.linear_2"),
    )
    return Piece(names, f"with the guidance embedding at {GUIDANCE:g} added", folded)


def _diffusers_blocks(network: Any) -> Pieces:
    """Self-attention and MLP of a BasicTransformerBlock."""
    pieces = Pieces()
    for n in range(len(network.blocks)):
        here, there = f"blocks.{n}", f"transformer_blocks.{n}"
        pieces |= _linear(f"{here}.attention.qkv", *(f"{there}.attn1.to_{name}" for name in "qkv"))
        pieces |= _linear(f"{here}.attention.out", f"{there}.attn1.to_out.0")
        pieces |= _linear(f"{here}.up", f"{there}.ff.net.0.proj") | _linear(
            f"{here}.down", f"{there}.ff.net.2"
        )
        pieces |= _head_sizes(f"{here}.attention", (f"{there}.attn1.to_q", f"{there}.attn1.to_k"), network)
    return pieces


def _head_sizes(ours: str, theirs: tuple[str, ...], network: Any) -> Pieces:
    """Our queries and keys are normed, theirs are not: the norm's scale is the size theirs have for inputs
    of variance 1.
    """
    head_width = int(network.config["width"]) // int(network.config["heads"])
    third = {"q": 0, "k": 1} if len(theirs) == 1 else {}  # theirs may be stacked already

    def size(side: str, weight: Tensor, bias: Tensor) -> Tensor:
        if third:
            weight, bias = weight.chunk(3)[third[side]], bias.chunk(3)[third[side]]
        return (weight.float().square().sum(1) + bias.float().square()).mean().sqrt().expand(head_width)

    return {
        f"{ours}.{side}_norm.weight": Piece(_both(name), "the size of its rows", partial(size, side))
        for side, name in zip("qk", theirs * (3 - len(theirs)), strict=True)
    }


def _ends(network: Any, embed: tuple[str, str], out: tuple[str, str], order: str) -> Pieces:
    """The first and the last layer, with the last one's rows in `order` (p q: within a patch, c:
    channels), without variances.
    """
    patch, channels = network.patch, int(network.config["channels"])
    grown = f", for {patch.frames} frames" if patch.frames > 1 else ""
    opened = partial(inflate_embed, channels=channels, patch=patch)
    closed = partial(inflate_out, channels=channels, patch=patch, order=order)
    return {
        f"{embed[0]}.weight": Piece((f"{embed[1]}.weight",), f"flat{grown}", opened),
        f"{embed[0]}.bias": Piece((f"{embed[1]}.bias",), AS_IT_IS),
        **{
            f"{out[0]}.{part}": Piece((f"{out[1]}.{part}",), f"from rows ordered {order}{grown}", closed)
            for part in ("weight", "bias")
        },
    }


def inflate_embed(weight: Tensor, channels: int, patch: Patch) -> Tensor:
    """[D C H W], or flat, to [D C·F·H·W]: each of F frames gives its share. As it is when it does not hold
    an image's patches.
    """
    flat = weight.flatten(1)
    if flat.shape[1] != channels * patch.height * patch.width:
        return flat
    inflated: Tensor = repeat(flat, "d (c a) -> d (c f a)", c=channels, f=patch.frames) / patch.frames
    return inflated


def inflate_out(rows: Tensor, channels: int, patch: Patch, order: str) -> Tensor:
    """[H·W·C' .] or [C·H·W .] to [C·F·H·W .]: every frame as the image; of more channels than C the first
    C, without the variances.
    """
    area = patch.height * patch.width
    if len(rows) % area or len(rows) // area not in (channels, 2 * channels):
        return rows
    image = rearrange(rows, "(a c) ... -> c a ..." if order == "p q c" else "(c a) ... -> c a ...", a=area)
    inflated: Tensor = repeat(image[:channels], "c a ... -> (c f a) ...", f=patch.frames)
    return inflated


def _dit_steering(
    source: Source, network: Any, times: tuple[str, str], no_label: Tensor, block: str, last: str
) -> Steering:
    condition = embedded_times(_pair(source, times[0]), _pair(source, times[1])) + no_label  # [S D]
    blocks = (_projected(source, block.format(n), condition, 6) for n in range(len(network.blocks)))
    return fit_steering(
        blocks, _projected(source, last, condition, 2), _pair(source, times[0]), _own_time_in(network)
    )


def _projected(source: Source, name: str, condition: Tensor, count: int) -> Tensor:
    projected: Tensor = rearrange(
        F.linear(F.silu(condition), *_pair(source, name)), "s (n d) -> s n d", n=count
    )
    return projected


def _steered(steering: Steering, theirs: tuple[str, ...]) -> Pieces:
    how = f"fitted to their steering by time, {100 * steering.error:.2g} % off"
    made = {
        "time_in.weight": steering.time_in[0],
        "time_in.bias": steering.time_in[1],
        "time_out.weight": steering.time_out[0],
        "time_out.bias": steering.time_out[1],
        "tables": steering.tables,
        "last_table": steering.last_table,
    }
    return {name: Piece(theirs, how, ready=tensor) for name, tensor in made.items()}


def _own_time_in(network: Any) -> tuple[Tensor, Tensor]:
    return network.time_in.weight.detach(), network.time_in.bias.detach()


def _pair(source: Source, name: str) -> tuple[Tensor, Tensor]:
    return source[f"{name}.weight"].float(), source[f"{name}.bias"].float()


def _both(*names: str) -> tuple[str, ...]:
    return tuple(f"{name}.{part}" for name in names for part in ("weight", "bias"))


def _linear(ours: str, *theirs: str) -> Pieces:
    """A layer's weight and bias; of several layers, one below the other."""
    how, of = (AS_IT_IS, None) if len(theirs) == 1 else ("stacked", _stacked)
    return {
        f"{ours}.{part}": Piece(tuple(f"{name}.{part}" for name in theirs), how, of)
        for part in ("weight", "bias")
    }


def _stacked(*rows: Tensor) -> Tensor:
    return torch.cat(rows)
