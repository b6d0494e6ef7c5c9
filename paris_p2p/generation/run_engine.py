"""The engine of a run out of its own files: experts and router from their weights, codec and encoders from
the folders that a fetch or an export laid out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from paris_p2p.device import Device, pick_device
from paris_p2p.fetched_run import FetchedRun
from paris_p2p.generation.engine import Engine, Mixture
from paris_p2p.generation.frozen import CODEC, FEATURES, TEXT, FrozenNetworks, Pin
from paris_p2p.generation.routed import ExpertSeats, State, expert_state, load_router, seats_for
from paris_p2p.generation.wishes import Wishes
from paris_p2p.model.router import Router
from paris_p2p.spec import ROUTER


def open_engine(
    run: FetchedRun,
    wishes: Wishes,
    device: Device,
    batch_clips: int = 0,
    older: FetchedRun | None = None,
) -> Engine:
    """Returns the engine that makes a run's clips; `batch_clips` is how many at once, 0 for as many as keep
    the memory bounded; `older` has the weights that autoguidance takes. CheckpointError, UsageError.
    """
    spec = run.spec
    pool, before = _pool(run, device, older), None if older is None else _pool(older, device, run)
    router = router_of(run, device) if wishes.routing.needs_router else None
    mixture = Mixture(pool, router, spec.experts, run.experts, wishes, before)
    return Engine(mixture, _frozen(run), device, spec.latent.shape, batch_clips)


def _pool(run: FetchedRun, device: Device, beside: FetchedRun | None) -> ExpertSeats:
    """Returns the run's experts on their seats, of half as many where another pool sits beside them."""
    spec = run.spec
    seats = seats_for(spec.expert.config, device)
    return ExpertSeats(
        spec.expert.config,
        _fetcher(run, device),
        device,
        seats if beside is None else max(1, seats // 2),
        spec.training.ddpm_experts,
    )


def router_of(run: FetchedRun, device: Device) -> Router | None:
    """Returns the run's router, or None where its weights are not here. CheckpointError."""
    if ROUTER not in run.weights:
        return None
    return load_router(run.spec.router.config, run.weights[ROUTER], device)


def _fetcher(run: FetchedRun, device: Device) -> Callable[[int], State]:
    """Returns what brings an expert's tensors into main memory."""
    config = run.spec.expert.config

    def fetch(k: int) -> State:
        return expert_state(config, run.weights[f"expert-{k}"], device)

    if not device.cuda:
        return fetch  # the seats are in main memory themselves
    return lru_cache(maxsize=seats_for(config, pick_device("cpu")))(fetch)


def _frozen(run: FetchedRun) -> FrozenNetworks:
    spec = run.spec
    networks = {TEXT: spec.text, CODEC: spec.codec, FEATURES: spec.first_features}
    folders = {TEXT: run.text_folder, CODEC: run.codec_folder, FEATURES: run.features_folder}
    pins = {name: Pin(pin.name, pin.revision, pin.sha256) for name, pin in networks.items() if pin}
    return FrozenNetworks(pins, spec.text_shape.tokens, lambda name: folders[name])
