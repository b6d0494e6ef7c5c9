"""Maps the checkpoints of DiT, PixArt and our own exports onto our VideoDiT: one pure function a family.

Legend: S times, D width, E width of a head.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from paris_p2p.model.pieces import AS_IT_IS, Piece, Pieces, SourceTensors, both, ends, linear
from paris_p2p.model.steering import Steering, embedded_times, fit_steering


def our_own(source: SourceTensors, network: Any) -> Pieces:
    """Maps a checkpoint of the same network, from an export or a file."""
    names = (
        name for name, _ in network.named_parameters() if not name.startswith("first_in.") or name in source
    )
    pieces = {name: Piece((name,), AS_IT_IS) for name in names}
    same = "out.weight" in source and source["out.weight"].shape == network.out.weight.shape
    return pieces if same else pieces | ends(network, ("embed", "embed"), ("out", "out"), "c p q")


def original_dit(source: SourceTensors, network: Any) -> Pieces:
    """Maps facebookresearch/DiT: `blocks.N.attn.qkv`, `adaLN_modulation`.

    The label's embedding is the one for no label.
    """
    pieces = ends(network, ("embed", "x_embedder.proj"), ("out", "final_layer.linear"), "p q c")
    for n in range(len(network.blocks)):
        block = f"blocks.{n}"
        pieces |= linear(f"{block}.attention.qkv", f"{block}.attn.qkv") | linear(
            f"{block}.attention.out", f"{block}.attn.proj"
        )
        pieces |= linear(f"{block}.up", f"{block}.mlp.fc1") | linear(f"{block}.down", f"{block}.mlp.fc2")
        pieces |= _head_sizes(f"{block}.attention", (f"{block}.attn.qkv",), network)
    label = "y_embedder.embedding_table.weight"
    times, no_label = ("t_embedder.mlp.0", "t_embedder.mlp.2"), source[label][-1].float()
    steering = _dit_steering(
        source, network, times, no_label, "blocks.{}.adaLN_modulation.1", "final_layer.adaLN_modulation.1"
    )
    theirs = both(
        *times,
        *(f"blocks.{n}.adaLN_modulation.1" for n in range(len(network.blocks))),
        "final_layer.adaLN_modulation.1",
    )
    return pieces | _steered(steering, (*theirs, label))


def diffusers_dit(source: SourceTensors, network: Any) -> Pieces:
    """Maps diffusers' DiTTransformer2DModel.

    Each of its blocks has a copy of the embeddings of time and label.
    """
    pieces = ends(network, ("embed", "pos_embed.proj"), ("out", "proj_out_2"), "p q c") | _diffusers_blocks(
        network
    )
    inside = "transformer_blocks.{}.norm1"
    embedders = [f"{inside.format(n)}.emb" for n in range(len(network.blocks))]
    label = "class_embedder.embedding_table.weight"
    times = (f"{embedders[0]}.timestep_embedder.linear_1", f"{embedders[0]}.timestep_embedder.linear_2")
    no_label = source[f"{embedders[0]}.{label}"][-1].float()
    steering = _dit_steering(source, network, times, no_label, inside + ".linear", "proj_out_1")
    copies = [f"{name}.timestep_embedder.linear_{layer}" for name in embedders for layer in (1, 2)]
    theirs = both(*copies, *(f"{inside.format(n)}.linear" for n in range(len(network.blocks))), "proj_out_1")
    return pieces | _steered(steering, (*theirs, *(f"{name}.{label}" for name in embedders)))


def pixart(source: SourceTensors, network: Any) -> Pieces:
    """Maps diffusers' PixArtTransformer2DModel (PixArt-alpha and -sigma).

    It has one time MLP and tables, and text by cross-attention. Its captions go through a non-linear
    projection that ours lack: with one, or with text of another width, text attention stays as it starts,
    without effect.
    """
    pieces = ends(network, ("embed", "pos_embed.proj"), ("out", "proj_out"), "p q c") | _diffusers_blocks(
        network
    )
    keys = source["transformer_blocks.0.attn2.to_k.weight"]
    if "caption_projection.linear_1.weight" not in source and keys.shape[-1] == int(
        network.config["text_width"]
    ):
        for n in range(len(network.blocks)):
            here, there = f"blocks.{n}.text", f"transformer_blocks.{n}.attn2"
            pieces |= linear(f"{here}.q", f"{there}.to_q") | linear(f"{here}.out", f"{there}.to_out.0")
            pieces |= linear(f"{here}.kv", f"{there}.to_k", f"{there}.to_v")
            pieces |= _head_sizes(here, (f"{there}.to_q", f"{there}.to_k"), network)
    times = ("adaln_single.emb.timestep_embedder.linear_1", "adaln_single.emb.timestep_embedder.linear_2")
    embedded = embedded_times(_pair(source, times[0]), _pair(source, times[1]))  # [S D]
    shared = _projected(source, "adaln_single.linear", embedded, 6)  # [S 6 D]
    tables = [f"transformer_blocks.{n}.scale_shift_table" for n in range(len(network.blocks))]
    last = embedded[:, None] + source["scale_shift_table"].float()  # [S 2 D]
    blocks = (shared + source[name].float() for name in tables)
    steering = fit_steering(blocks, last, _pair(source, times[0]), _own_time_in(network))
    return pieces | _steered(steering, (*both(*times, "adaln_single.linear"), *tables, "scale_shift_table"))


def _diffusers_blocks(network: Any) -> Pieces:
    """Maps self-attention and MLP of a BasicTransformerBlock."""
    pieces = Pieces()
    for n in range(len(network.blocks)):
        here, there = f"blocks.{n}", f"transformer_blocks.{n}"
        pieces |= linear(f"{here}.attention.qkv", *(f"{there}.attn1.to_{name}" for name in "qkv"))
        pieces |= linear(f"{here}.attention.out", f"{there}.attn1.to_out.0")
        pieces |= linear(f"{here}.up", f"{there}.ff.net.0.proj") | linear(f"{here}.down", f"{there}.ff.net.2")
        pieces |= _head_sizes(f"{here}.attention", (f"{there}.attn1.to_q", f"{there}.attn1.to_k"), network)
    return pieces


def _head_sizes(ours: str, theirs: tuple[str, ...], network: Any) -> Pieces:
    """Sets the scale of our norms of queries and keys, which the checkpoint does not norm.

    It is the size that the checkpoint's have for inputs of variance 1.
    """
    head_width = int(network.config["width"]) // int(network.config["heads"])
    third = {"q": 0, "k": 1} if len(theirs) == 1 else {}  # the checkpoint's may be stacked already

    def size(side: str, weight: Tensor, bias: Tensor) -> Tensor:
        if third:
            weight, bias = weight.chunk(3)[third[side]], bias.chunk(3)[third[side]]
        return (weight.float().square().sum(1) + bias.float().square()).mean().sqrt().expand(head_width)

    return {
        f"{ours}.{side}_norm.weight": Piece(both(name), "the size of its rows", partial(size, side))
        for side, name in zip("qk", theirs * (3 - len(theirs)), strict=True)
    }


def _dit_steering(
    source: SourceTensors, network: Any, times: tuple[str, str], no_label: Tensor, block: str, last: str
) -> Steering:
    condition = embedded_times(_pair(source, times[0]), _pair(source, times[1])) + no_label  # [S D]
    blocks = (_projected(source, block.format(n), condition, 6) for n in range(len(network.blocks)))
    return fit_steering(
        blocks, _projected(source, last, condition, 2), _pair(source, times[0]), _own_time_in(network)
    )


def _projected(source: SourceTensors, name: str, condition: Tensor, count: int) -> Tensor:
    projected: Tensor = rearrange(
        F.linear(F.silu(condition), *_pair(source, name)), "s (n d) -> s n d", n=count
    )
    return projected


def _steered(steering: Steering, theirs: tuple[str, ...]) -> Pieces:
    how = f"fitted to the checkpoint's steering by time, {100 * steering.error:.2g} % off"
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


def _pair(source: SourceTensors, name: str) -> tuple[Tensor, Tensor]:
    return source[f"{name}.weight"].float(), source[f"{name}.bias"].float()
