"""A call of ParisPipeline in progress, as callbacks of diffusers see it and may change it.

t = 1 is noise; diffusers' callbacks are told 1000 times that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from torch import Tensor

from paris_p2p.errors import UsageError
from paris_p2p.generation.engine import Denoising
from paris_p2p.generation.pipeline_inputs import CALLBACK_TENSORS, check_callback_tensors

TIMESTEPS = 1000
Callback = Callable[..., Any]  # also diffusers' PipelineCallback and MultiPipelineCallbacks


class CallState:
    """The properties that diffusers' pipelines have while they are called."""

    _guidance_scale = 1.0
    _interrupt = False
    _num_timesteps = 0
    _current_timestep: Tensor | None = None

    @property
    def guidance_scale(self) -> float:
        """Returns the scale that the next step is guided with; a callback may set `_guidance_scale`."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether the next step is guided at all."""
        return self._guidance_scale != 1

    @property
    def num_timesteps(self) -> int:
        """Returns the number of steps of the last call."""
        return self._num_timesteps

    @property
    def current_timestep(self) -> Tensor | None:
        """Returns the time of the step in progress, from 1000 at noise down, or None between calls."""
        return self._current_timestep

    @property
    def interrupt(self) -> bool:
        """Whether the call in progress ends after its step; a callback may set `_interrupt`."""
        return self._interrupt


class Listener:
    """Tells a callback of each step, and gives the engine what the callback changed."""

    def __init__(self, pipeline: Any, callback: Callback | None, tensors: Sequence[str], times: list[float]):
        if isinstance(callback, PipelineCallback | MultiPipelineCallbacks):
            tensors = callback.tensor_inputs
        check_callback_tensors(tensors)
        self.pipeline, self.callback, self.tensors = pipeline, callback, tensors
        self.times = [torch.tensor(time * TIMESTEPS) for time in times]
        self.bar: Any = None

    def begin(self, guidance: float) -> None:
        """Sets the call's properties and opens the progress bar."""
        pipeline = self.pipeline
        pipeline._guidance_scale, pipeline._interrupt = guidance, False
        pipeline._num_timesteps, pipeline._current_timestep = len(self.times) - 1, self.times[0]
        self.bar = pipeline.progress_bar(total=len(self.times) - 1)

    def end(self) -> None:
        """Closes the progress bar."""
        self.pipeline._current_timestep = None
        self.bar.close()

    def on_step(self, step: int, state: Denoising) -> None:
        """Hears that step `step` is done, and changes the state as the callback says."""
        if self.callback is not None:
            given = {name: _tensor(state, name) for name in self.tensors}
            changed = self.callback(self.pipeline, step, self.times[step], given) or {}
            for name, tensor in changed.items():
                _change(state, name, tensor)
        state.guidance, state.stopped = self.pipeline._guidance_scale, self.pipeline._interrupt
        self.pipeline._current_timestep = self.times[step + 1]
        self.bar.update()


def _tensor(state: Denoising, name: str) -> Tensor | None:
    if name == "latents":
        return state.latents
    condition = state.condition if name == "prompt_embeds" else state.negative
    return None if condition is None else condition.tokens


def _change(state: Denoising, name: str, tensor: Tensor | None) -> None:
    """Puts a tensor in the place of one that the callback may change; UsageError for one of another shape."""
    before = _tensor(state, name) if name in CALLBACK_TENSORS else None
    if tensor is None or before is None:
        return
    if not isinstance(tensor, Tensor) or tensor.shape != before.shape:
        found = tuple(tensor.shape) if isinstance(tensor, Tensor) else f"a {type(tensor).__name__}"
        raise UsageError(f"the callback gave {name} back as {found}; give a tensor {tuple(before.shape)}")
    if name == "latents":
        state.latents = tensor
    elif name == "prompt_embeds":
        state.condition = replace(state.condition, tokens=tensor)
    elif state.negative is not None:
        state.negative = replace(state.negative, tokens=tensor)
