"""What ParisPipeline is given and gives back, under diffusers' names: embeddings, noise, frames.

Legend: B clips, P prompts, L text tokens, D token width, T frames, H x W pixels, K experts, S steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from paris_p2p.errors import UsageError
from paris_p2p.flow.condition import Condition
from paris_p2p.generation.engine import MAX_CLIPS
from paris_p2p.generation.wishes import MAX_STEPS
from paris_p2p.model.experts import ExpertSet
from paris_p2p.model.router import Router

Generators = torch.Generator | Sequence[torch.Generator] | None
CALLBACK_TENSORS = ("latents", "prompt_embeds", "negative_prompt_embeds")


@dataclass
class ParisOutput(BaseOutput):
    """Clips in the form that was asked for, and the weights of the experts that made them."""

    # `np` float32 in 0..1 and `uint8`: [B T H W 3]; `pt`: float32 [B T 3 H W]; `pil`: B lists of T pictures;
    # `latent`: float32 [B C T' H' W']
    frames: Any
    experts: NDArray[np.float32]  # [B S K]
    times: NDArray[np.float32]  # [S], at which the router was asked; 1 is noise


class PromptEmbeds(NamedTuple):
    """Prompts as the pipeline takes them: `pipe(**pipe.encode_prompt("…")._asdict())`. Negatives are None
    where there is no negative prompt.
    """

    prompt_embeds: Tensor | None = None  # [P L D]
    negative_prompt_embeds: Tensor | None = None
    pooled_prompt_embeds: Tensor | None = None  # [P W]
    negative_pooled_prompt_embeds: Tensor | None = None
    prompt_attention_mask: Tensor | None = None  # [P L], true where there is text
    negative_prompt_attention_mask: Tensor | None = None

    @classmethod
    def of(cls, condition: Condition, negative: Condition | None) -> PromptEmbeds:
        """Returns the tensors of the two conditions."""
        other = (None, None, None) if negative is None else (negative.tokens, negative.pooled, negative.mask)
        return cls(condition.tokens, other[0], condition.pooled, other[1], condition.mask, other[2])

    def condition(self, sizes: TextSizes, device: torch.device) -> Condition | None:
        """Returns what the prompts' tensors say, or None where they are not given; UsageError."""
        return _condition("", *self[::2], sizes, device)

    def negative(self, sizes: TextSizes, device: torch.device) -> Condition | None:
        """Returns what the negative prompts' tensors say, or None where they are not given; UsageError."""
        return _condition("negative_", *self[1::2], sizes, device)


class TextSizes(NamedTuple):
    """How large the tensors of one prompt are."""

    tokens: int  # L
    width: int  # D
    pooled: int  # W; 0: nobody reads it

    @classmethod
    def of(cls, experts: ExpertSet, router: Router | None, tokens: int) -> TextSizes:
        """Returns what these networks read of a prompt."""
        expert = experts.config["expert"]
        pooled = expert.get("pooled_width") or (router.config["pooled_width"] if router is not None else 0)
        return cls(tokens, expert["text_width"], pooled)


def _condition(
    prefix: str,
    tokens: Tensor | None,
    pooled: Tensor | None,
    mask: Tensor | None,
    sizes: TextSizes,
    device: torch.device,
) -> Condition | None:
    if tokens is None:
        if pooled is not None or mask is not None:
            raise UsageError(
                f"{prefix}pooled_prompt_embeds or {prefix}prompt_attention_mask is given without "
                f"{prefix}prompt_embeds; give all that encode_prompt makes"
            )
        return None
    count = len(tokens) if isinstance(tokens, Tensor) and tokens.dim() else 0
    _check_tensor(f"{prefix}prompt_embeds", tokens, (count, sizes.tokens, sizes.width))
    width = sizes.pooled or (pooled.shape[-1] if isinstance(pooled, Tensor) and pooled.dim() else 0)
    _check_tensor(f"{prefix}pooled_prompt_embeds", pooled, (count, width))
    if mask is not None:
        _check_tensor(f"{prefix}prompt_attention_mask", mask, (count, sizes.tokens))
    found = tokens.ne(0).any(-1) if mask is None else mask.bool()  # tokens that are only padding are zero
    assert pooled is not None  # it was checked
    return Condition(*(each.to(device) for each in (tokens.float(), found, pooled.float())))


def _check_tensor(name: str, value: object, shape: tuple[int, ...]) -> None:
    """Raises UsageError unless a value is a tensor of finite numbers in that shape."""
    if not isinstance(value, Tensor) or tuple(value.shape) != shape:
        found = tuple(value.shape) if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise UsageError(f"{name} is {found}, and must be a tensor {shape}; encode_prompt makes all of them")
    if value.is_complex() or not bool(value.isfinite().all()):
        raise UsageError(f"{name} has values that are not finite numbers; encode the prompts again")


def listed(prompt: str | Sequence[str]) -> list[str]:
    """Returns one prompt or several as a list; UsageError when they are not words."""
    if not isinstance(prompt, Iterable):
        raise UsageError(f"a prompt is {prompt!r}, a {type(prompt).__name__}; give words")
    words = [prompt] if isinstance(prompt, str) else list(prompt)
    odd = [each for each in words if not isinstance(each, str)]
    if odd:
        raise UsageError(f"a prompt is {odd[0]!r}, a {type(odd[0]).__name__}; give words")
    return words


def negatives(negative_prompt: str | Sequence[str] | None, count: int) -> list[str] | None:
    """Returns one negative prompt for each of `count` prompts, or None where there is none; UsageError."""
    if negative_prompt is None:
        return None
    words = listed(negative_prompt)
    if isinstance(negative_prompt, str):
        words *= count
    if len(words) != count:
        raise UsageError(
            f"{len(words)} negative prompts for {count} prompts: give one for all, or one for each"
        )
    return words if any(words) else None


def check_request(count: int, copies: int, steps: int, guidance: float) -> None:
    """Raises UsageError when nothing is asked for, or more than there can be, or no number at all."""
    for name, value, most in (
        ("num_videos_per_prompt", copies, MAX_CLIPS),
        ("num_inference_steps", steps, MAX_STEPS),
    ):
        if not isinstance(value, Integral) or value > most:
            raise UsageError(f"{name} is {value!r}; give a whole number of at most {most:,}")
    if not isinstance(guidance, Real | Tensor) or not math.isfinite(guidance):
        raise UsageError(f"guidance_scale is {guidance!r}; give a finite number")
    if not count or copies < 1 or steps < 1:
        raise UsageError(
            f"{count} prompts with {copies} clips each in {steps} steps: there is nothing to make; "
            "give at least one of each"
        )


def check_either(name: str, words: Any, embeds: Any, *, needed: bool) -> None:
    """Raises UsageError when a prompt is given twice, in words and as tensors, or not at all."""
    if words is not None and embeds is not None:
        raise UsageError(f"both {name} and {name}_embeds are given; give one of the two")
    if needed and words is None and embeds is None:
        raise UsageError(f"neither {name} nor {name}_embeds is given; give one of the two")


def check_shape(clip: Sequence[int], frames: int | None, height: int | None, width: int | None) -> None:
    """Raises UsageError when another size is asked for than the run's own, [T H W]."""
    if not clip:
        raise UsageError("the model does not say how large its clips are; export the run again")
    asked = [
        one if given is None else given for one, given in zip(clip, (frames, height, width), strict=True)
    ]
    if asked != list(clip):
        raise UsageError(
            f"{asked[0]} frames of {asked[1]}x{asked[2]} pixels were asked for; the run makes clips of "
            f"{clip[0]} frames of {clip[1]}x{clip[2]}, and no others; leave num_frames, height and width out"
        )


def check_output_type(output_type: str) -> None:
    """Raises UsageError when frames are not given in that form."""
    if output_type not in (*OUTPUT_TYPES, "latent"):
        raise UsageError(f"output_type {output_type!r} is none of {', '.join((*OUTPUT_TYPES, 'latent'))}")


def check_callback_tensors(names: Sequence[str]) -> None:
    """Raises UsageError when a callback asks for a tensor that there is not."""
    odd = [name for name in names if name not in CALLBACK_TENSORS]
    if odd:
        raise UsageError(
            f"callback_on_step_end_tensor_inputs names {odd}; there are {list(CALLBACK_TENSORS)}"
        )


def given_latents(latents: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Returns the noise that was given, checked, as float32: [B C T H W]; UsageError."""
    if not isinstance(latents, Tensor) or tuple(latents.shape) != shape:
        found = tuple(latents.shape) if isinstance(latents, Tensor) else f"a {type(latents).__name__}"
        raise UsageError(f"latents are {found}, the clips need {shape}")
    if latents.is_complex() or not bool(latents.isfinite().all()):
        raise UsageError("latents have values that are not finite numbers; draw the noise again")
    return latents.float()


def drawn_latents(generator: Generators, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Returns noise as diffusers draws it, from one generator, one for each clip, or torch's own."""
    given = generator if generator is None or isinstance(generator, torch.Generator) else list(generator)
    noise: Tensor = randn_tensor(shape, generator=given, device=device, dtype=torch.float32)
    return noise


def generator_of_each(generator: Generators, clips: int) -> list[torch.Generator] | None:
    """Returns the generator of each clip, which may be one for all, or None for torch's own; UsageError."""
    if generator is None:
        return None
    given = generator if isinstance(generator, Iterable) else [generator] * clips
    odd = [one for one in given if not isinstance(one, torch.Generator)]
    if odd:
        raise UsageError(f"a generator is a {type(odd[0]).__name__}; give torch.Generator, or rng_seed")
    each = list(given)
    if len(each) != clips:
        raise UsageError(f"{len(each)} generators for {clips} clips: give one for all, or one for each")
    return each


def _pictures(clips: NDArray[np.uint8]) -> list[list[Image.Image]]:
    return [[Image.fromarray(frame) for frame in clip] for clip in clips]


def _floats(clips: NDArray[np.uint8]) -> NDArray[np.float32]:
    return clips.astype(np.float32) / np.float32(255)


def _tensor(clips: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(_floats(clips)).permute(0, 1, 4, 2, 3).contiguous()


OUTPUT_TYPES: dict[str, Callable[[NDArray[np.uint8]], Any]] = {
    "np": _floats,
    "pt": _tensor,
    "pil": _pictures,
    "uint8": lambda clips: clips,
}
