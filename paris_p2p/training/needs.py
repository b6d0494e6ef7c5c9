"""Estimates what training a slot takes in memory, from the network's numbers, without building it.

A peer knows it before it claims a slot. `bench/needs.py` prints the estimate beside measured peaks, and a
test holds one to the other.
"""

from __future__ import annotations

from paris_p2p.spec import ROUTER, RunSpec
from paris_p2p.training.counting import counts_of

STATE_BYTES = 20  # a parameter: fp32 weights, gradients, two AdamW moments, EMA
MOMENT_BYTES = 4  # which a matrix that Muon trains has one of
SPARE_BYTES = 4  # a parameter: what allocators keep between a step's passes
WEIGHTS_BYTES = 2  # a parameter, in bf16
# Of resume states, a parameter: four in fp32; where a run has compact ones, 6 and 6 more for every 256.
RESUME_BYTES, COMPACT_BYTES, COMPACT_BLOCK = 16, 6, 256
# Of a matrix that Muon trains: a byte less a number, and two more for every 256.
MUON_COMPACT_BYTES, MUON_BLOCK_BYTES = 5, 8
# More of a second average, where a run keeps one: in memory and in fp32, and in compact states.
AVERAGE_BYTES, AVERAGE_COMPACT_BYTES, AVERAGE_BLOCK_BYTES = 4, 1, 4
# Main memory a parameter of a crew's member: its base with momentum and average, what it did not send yet and
# what it did (20); while it merges, compares or writes, a copy of the weights (4) and, of a lead, a second
# state (12).
CREW_BYTES, CREW_LATER_BYTES = 36, 16
# Bytes that a token and channel of one block take until its backward is done, with bf16 products
# (peers/README.md).
KEPT_BYTES = 64
KEPT_FP32_BYTES = 96
BLOCKS_AT_ONCE = 3  # with recomputation: one block's activations, its gradients, temporaries
LOADED_BYTES = 420 << 20  # a trainer's process with torch, our modules and its kernels
CUDA_LOADED_BYTES = 3000 << 20  # main memory of one with CUDA's libraries
CUDA_CONTEXT_BYTES = 600 << 20  # of the GPU's own


def training_bytes(spec: RunSpec, slot: str, *, bf16: bool) -> int:
    """Returns the bytes of state, and of one clip's activations that are computed twice.

    They are on the device that trains, beside its process.
    """
    state = parameter_count(spec, slot) * (STATE_BYTES + SPARE_BYTES + AVERAGE_BYTES * keeps_two(spec))
    state -= MOMENT_BYTES * muon_count(spec, slot)
    return state + _activation_bytes(spec, slot, bf16)


def trainer_bytes(spec: RunSpec, slot: str, *, gpu: bool, bf16: bool) -> tuple[int, int]:
    """Returns (main memory, GPU memory) of a trainer at its least.

    It then trains one clip at a time and computes activations twice. In a run with crews it may lead one.
    """
    needed, crew = training_bytes(spec, slot, bf16=bf16), CREW_BYTES if spec.crew else 0
    if gpu:
        # a checkpoint is on its way from the GPU to the disk
        main = CUDA_LOADED_BYTES + checkpoint_bytes(spec, slot) + parameter_count(spec, slot) * crew
        return main, CUDA_CONTEXT_BYTES + needed
    return LOADED_BYTES + needed + parameter_count(spec, slot) * crew, 0


def checkpoint_bytes(spec: RunSpec, slot: str) -> int:
    """Returns the bytes of a checkpoint, weights and resume state, but for the files' headers."""
    return weights_bytes(spec, slot) + resume_bytes(spec, slot)


def weights_bytes(spec: RunSpec, slot: str) -> int:
    """Returns the bytes of weights to generate with, but for the file's header: both averages, if there are
    two.
    """
    return parameter_count(spec, slot) * WEIGHTS_BYTES * (1 + keeps_two(spec))


def keeps_two(spec: RunSpec) -> bool:
    """Tells whether the run's slots keep two averages of their weights."""
    return spec.training.ema_profile == "power"


def resume_bytes(spec: RunSpec, slot: str) -> int:
    """Returns the bytes of a resume state, but for the file's header; a merged state has fewer."""
    by_muon, every = muon_count(spec, slot), parameter_count(spec, slot)
    parameters = every - by_muon
    if not spec.training.compact:
        average = AVERAGE_BYTES * every * keeps_two(spec)
        return parameters * RESUME_BYTES + by_muon * (RESUME_BYTES - MOMENT_BYTES) + average
    average = AVERAGE_COMPACT_BYTES * every + AVERAGE_BLOCK_BYTES * -(-every // COMPACT_BLOCK)
    blocks, muon_blocks = -(-parameters // COMPACT_BLOCK), -(-by_muon // COMPACT_BLOCK)
    of_muon = MUON_COMPACT_BYTES * by_muon + MUON_BLOCK_BYTES * muon_blocks
    return COMPACT_BYTES * (parameters + blocks) + of_muon + average * keeps_two(spec)


def parameter_count(spec: RunSpec, slot: str) -> int:
    """Counts the parameters of a slot's network without allocating them."""
    return counts_of(spec, slot).parameters


def muon_count(spec: RunSpec, slot: str) -> int:
    """Counts the parameters of the matrices that Muon trains; none in a run without it."""
    if spec.training.optimizer != "muon":
        return 0
    return counts_of(spec, slot).by_muon


def clip_tokens(spec: RunSpec, slot: str = "expert-0") -> int:
    """Returns the patches of one clip in the slot's network."""
    from paris_p2p.model.presets import count_tokens

    return count_tokens(_config(spec, slot), spec.latent.shape)


def _activation_bytes(spec: RunSpec, slot: str, bf16: bool) -> int:
    config = _config(spec, slot)
    depth = sum(int(config.get(name, 0)) for name in ("depth", "double_depth", "single_depth"))
    channels = int(config.get("width", 1)) * (clip_tokens(spec, slot) + spec.text_shape.tokens)
    return channels * ((KEPT_BYTES if bf16 else KEPT_FP32_BYTES) * BLOCKS_AT_ONCE + 4 * depth)


def _config(spec: RunSpec, slot: str) -> dict[str, int | float | str | bool]:
    return (spec.router if slot == ROUTER else spec.expert).config
