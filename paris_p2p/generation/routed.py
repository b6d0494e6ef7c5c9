"""Makes experts and router ready to sample with: seats on a device, weights from files, and who was chosen
at each step.

Legend: B clips, K experts, S steps, `...` the rest of a clip. t = 1 is noise.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from paris_p2p.data.batches import Draws
from paris_p2p.device import Device, available_bytes
from paris_p2p.flow.condition import Condition
from paris_p2p.flow.ddpm import Clamp, epsilon_velocity
from paris_p2p.flow.kept import kept_until
from paris_p2p.flow.mixture import Routing, only_present
from paris_p2p.model.calibration import calibration_of
from paris_p2p.model.checkpoint import load_weights_into
from paris_p2p.model.posterior import posterior_logits, start_logits
from paris_p2p.model.presets import Config, build_expert, build_router, count_tokens
from paris_p2p.model.router import Router

if TYPE_CHECKING:
    from paris_p2p.model.presets import Expert

State = Mapping[str, Tensor]
# tighter than published: with 0.01, steps near t = 1 threw clips of unit variance far off
DEFAULT_CLAMP = Clamp(alpha=0.1)
MAX_BATCH_TOKENS = 16384  # patches of all clips of a batch: bounds the activations


class ExpertSeats:
    """A pool whose experts wait in main memory, or on disk, and take one of a few seats on the device when
    routed to.

    Those in `ddpm` predict noise, and are converted to a velocity here.
    """

    def __init__(
        self,
        config: Config,
        fetch: Callable[[int], State],
        device: Device,
        seats: int,
        ddpm: Collection[int] = (),
        clamp: Clamp = DEFAULT_CLAMP,
        dtype: torch.dtype | None = None,  # of the weights and products; None: what the device multiplies
    ):
        self.config, self.fetch, self.device, self.seats = config, fetch, device, seats
        self.dtype = dtype or weights_type(device)
        self.ddpm, self.clamp = frozenset(ddpm), clamp
        self.seated: OrderedDict[int, Expert] = OrderedDict()

    def velocity(self, k: int, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Returns expert k's v [B ...] at x [B ...], t [B], given what is known of the clips."""
        expert, known = self._seat(k), condition

        def answer(x: Tensor, t: Tensor) -> Tensor:
            with torch.no_grad(), self._autocast():
                # The first frame is clean at every time: only x is scaled.
                answered: Tensor = expert(x, t, known.tokens, known.mask, known.pooled, known.first)
            return answered

        return epsilon_velocity(answer, x, t, self.clamp) if k in self.ddpm else answer(x, t)

    def _seat(self, k: int) -> Expert:
        if k not in self.seated:
            while len(self.seated) >= self.seats:
                # the least recently used goes before the new one comes: both might not fit
                self.seated.popitem(last=False)
            self.seated[k] = _place_expert(self.config, self.fetch(k), self.device, self.dtype)
        self.seated.move_to_end(k)
        return self.seated[k]

    def _autocast(self) -> AbstractContextManager[None]:
        """Makes matrix products in the experts' type; sums stay float32."""
        half = self.dtype if self.dtype != torch.float32 else torch.bfloat16
        return torch.autocast(self.device.torch.type, dtype=half, enabled=self.dtype != torch.float32)


class Chooser:
    """Turns the router's answer into weights and remembers them for each time that it was asked about;
    UsageError when the routing needs a router and has none.

    It serves one batch: a routing that keeps its experts asks the router of them once, when it is first
    called, and draws with `uniforms` [B].
    """

    def __init__(
        self,
        router: Router | None,
        experts: int,
        present: Sequence[int],
        routing: Routing,
        uniforms: Tensor | None = None,
    ):
        routing.check_router(router is not None, len(present))
        self.router, self.experts, self.present, self.routing = router, experts, list(present), routing
        self.uniforms = uniforms
        self._chosen: dict[float, Tensor] = {}
        self._kept: Tensor | None = None  # [B K]

    def __call__(self, x: Tensor, t: Tensor, pooled: Tensor | None, first: Tensor | None = None) -> Tensor:
        """Returns weights [B K] for x [B ...], t [B], pooled [B P] or None, first [B F] or None; UsageError
        when that cannot be.
        """
        if self.routing.is_kept:
            route = kept_until(self._start(x, pooled, first), self.routing.kept_until, self.away)
            weights = route(x, t, pooled, first)
        else:
            weights = self.away(x, t, pooled, first)
        # Guidance may ask again without the caption and Heun at the next time; what is reported is the first,
        # with the caption.
        self._chosen.setdefault(float(t[0]), weights.cpu())
        return weights

    def away(self, x: Tensor, t: Tensor, pooled: Tensor | None, first: Tensor | None = None) -> Tensor:
        """Returns weights [B K] as a call does, of the moment alone: nothing is kept and nothing remembered.

        So the other side of exact guidance is routed.
        """
        if self.router is None or not self.routing.needs_router:
            logits = torch.zeros(len(x), self.experts, device=x.device)
        else:
            with torch.no_grad():
                logits = posterior_logits(self.router, x, t, pooled, first)
        return self.routing.follows.weights(only_present(logits, self.present))

    def _start(self, x: Tensor, pooled: Tensor | None, first: Tensor | None) -> Tensor:
        """Returns the weights [B K] that are kept."""
        if self._kept is None:
            logits = torch.zeros(len(x), self.experts, device=x.device)
            if self.router is not None:
                logits = _start_logits(self.router, x, pooled, first)
            self._kept = self.routing.weights(only_present(logits, self.present), uniforms=self.uniforms)
        return self._kept

    def chosen(self, steps: int) -> Tensor:
        """Returns the weights at each of the steps so far, from noise on, and forgets them: [B S K]."""
        times = sorted(self._chosen, reverse=True)[:steps]
        chosen = torch.stack([self._chosen[time] for time in times], 1)
        self._chosen.clear()
        self._kept = None
        return chosen


def expert_state(config: Config, path: Path, device: Device) -> State:
    """Returns a checked weights file's tensors in main memory: in bfloat16, as they are sent, where the
    device multiplies that. CheckpointError.
    """
    with torch.device("meta"):
        shapes = {name: tuple(parameter.shape) for name, parameter in build_expert(config).named_parameters()}
    state = {name: torch.empty(shape, dtype=weights_type(device)) for name, shape in shapes.items()}
    load_weights_into(path, state)
    return state


def weights_type(device: Device) -> torch.dtype:
    """Returns the type of an expert that is sampled with: its weights are sent in bfloat16, so nothing is
    lost, and no step has to cast them again.
    """
    return torch.bfloat16 if device.bf16 else torch.float32


def compute_type(stored: torch.dtype, device: Device) -> torch.dtype:
    """Returns the type to compute in with experts that are kept in another: what the device multiplies for
    bfloat16, in which they are sent; float32 for those that were cast to it, and float16 on a GPU alone.
    """
    if stored == torch.bfloat16:
        return weights_type(device)
    return stored if device.cuda else torch.float32


def load_router(config: Config, path: Path, device: Device) -> Router:
    """Returns the router of a checked weights file, in float32, with its calibration: it is small, and its
    choice should not depend on rounding. CheckpointError.
    """
    router = build_router(config)
    load_weights_into(path, dict(router.named_parameters()))
    router.calibrate(calibration_of(path))
    router.requires_grad_(False).eval().to(device.torch)
    return router


def seats_for(config: Config, device: Device) -> int:
    """Returns how many experts fit at once into half the memory that is free now; at least one."""
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in build_expert(config).parameters())
    free = torch.cuda.mem_get_info(device.torch)[0] if device.cuda else available_bytes()
    expert_bytes = parameters * weights_type(device).itemsize
    return int(max(1, free // 2 // expert_bytes))


def batch_clips_for(config: Config, latent: tuple[int, int, int, int]) -> int:
    """Returns how many clips to sample together, 1 to 16, so that the number of patches is bounded."""
    return max(1, min(16, MAX_BATCH_TOKENS // max(1, count_tokens(config, latent))))


def clip_noise(rng_seed: int, clips: Sequence[int], shape: tuple[int, ...]) -> Tensor:
    """Returns noise that depends on the seed and a clip's number alone, so that no batch size changes a clip:
    [B ...].
    """
    draws = Draws.of(str(rng_seed), "generate")
    return torch.stack([torch.from_numpy(draws.noise(clip, shape)) for clip in clips])


def clip_uniforms(rng_seed: int, clips: Sequence[int]) -> Tensor:
    """Returns numbers in (0, 1) that decide which experts are drawn: [B] float64, a function of the seed and
    a clip's number alone, apart from the clip's noise.
    """
    draws = Draws.of(str(rng_seed), "generate/expert")
    return torch.tensor([draws.scalars(clip)[1][0] for clip in clips], dtype=torch.float64)


def _start_logits(router: Router, x: Tensor, pooled: Tensor | None, first: Tensor | None) -> Tensor:
    """Returns the posterior's logits [B K] at t = 1; clips without a caption have their noise to ask with."""
    with torch.no_grad():
        if pooled is None:
            return posterior_logits(router, x, torch.ones(len(x), device=x.device), None, first)
        return start_logits(router, pooled, first)


def _place_expert(config: Config, state: State, device: Device, dtype: torch.dtype) -> Expert:
    """Returns an expert around tensors on the device in that type, shared where they are there in it."""
    with torch.device("meta"):
        expert = build_expert(config)
    expert.load_state_dict(
        {name: tensor.to(device.torch, dtype) for name, tensor in state.items()}, assign=True
    )
    expert.requires_grad_(False).eval()
    return expert
