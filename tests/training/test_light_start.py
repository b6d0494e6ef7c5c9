"""What trains and measures loads torch and not diffusers, and builds the same networks without it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from paris_p2p.model.layers import uninitialised
from paris_p2p.model.presets import (
    build_expert,
    build_plain_expert,
    build_plain_router,
    build_router,
    expert_config,
    parameter_shapes,
    router_config,
)
from paris_p2p.spec import ROUTER
from paris_p2p.training.objective import empty_network, network_shapes
from tests.data.shards import LATENT, TEXT
from tests.made.tiny_run import TRAINING, TinyRun, checkpoint_of, train_here

HEAVY = {"diffusers", "transformers", "sympy", "torch._dynamo", "hivemind", "scipy"}
OPTIONS = {"first_frame": True, "time_skip": True}
EXPERTS = [
    expert_config(preset, LATENT, TEXT, **options)
    for preset in ("nano", "mmdit-nano")
    for options in ({}, OPTIONS)
]


@pytest.mark.parametrize("module", ["gate", "trainer"])
def test_a_process_that_trains_or_measures_starts_without_diffusers(module: str) -> None:
    script = f"import sys, paris_p2p.training.{module}; print(sorted({HEAVY!r} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_a_card_is_measured_without_the_compiler(tiny: TinyRun) -> None:
    ready = checkpoint_of(train_here(tiny.train_job("router", out="light-start", max_steps=2)))
    job = tiny.gate_job(ready, "router").model_dump_json()
    script = (
        "import sys; from paris_p2p.training.gate import check_card; "
        "from paris_p2p.training.messages import GateJob; "
        "result = check_card(GateJob.model_validate_json(sys.stdin.read())); "
        f"print(result.gate_clips, sorted({HEAVY!r} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", script]
    ran = subprocess.run(command, input=job, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == f"{tiny.spec.gate.clips} []"


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_slot_is_trained_without_the_compiler(optimizer: str, tmp_path: Path) -> None:
    run = TinyRun(tmp_path, training=TRAINING.model_copy(update={"optimizer": optimizer}))
    script = (
        "import sys; from paris_p2p.training.train import train; "
        "from paris_p2p.training.messages import TrainJob; "
        "told = []; train(TrainJob.model_validate_json(sys.stdin.read()), told.append, lambda: None); "
        f"print(told[-1].steps, sorted({HEAVY!r} & set(sys.modules)))"
    )
    command, job = [sys.executable, "-c", script], run.train_job(max_steps=2).model_dump_json()
    ran = subprocess.run(command, input=job, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "2 []"


@pytest.mark.parametrize("config", EXPERTS, ids=str)
def test_shapes_are_told_without_memory_and_without_the_compiler(config: dict[str, int]) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in build_plain_expert(config).named_parameters()}
    assert parameter_shapes(config) == shapes
    with uninitialised(torch.device("meta")):
        network = build_plain_expert(config)
    assert all(tensor.is_meta for tensor in network.parameters())


@pytest.mark.parametrize("config", EXPERTS, ids=str)
def test_a_plain_expert_has_the_first_weights_of_the_model(config: dict[str, int]) -> None:
    assert_alike(build_expert, build_plain_expert, config)


@pytest.mark.parametrize("first_width", [0, 5])
def test_a_plain_router_has_the_first_weights_of_the_model(first_width: int) -> None:
    config = router_config("nano", LATENT, TEXT, experts=3, first_width=first_width)
    assert_alike(build_router, build_plain_router, config)


@pytest.mark.parametrize("config", EXPERTS, ids=str)
def test_an_expert_is_whole_once_its_parameters_are_set(config: dict[str, int]) -> None:
    assert not list(
        build_plain_expert(config).buffers()
    )  # the gate makes networks whose numbers are undefined


def test_an_empty_network_has_the_slots_parameters_and_nothing_else(tiny: TinyRun) -> None:
    for slot in ("expert-1", ROUTER):
        network = empty_network(tiny.spec, slot, torch.device("cpu"))
        found = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
        assert found == network_shapes(tiny.spec, slot)
        assert not any(tensor.is_meta or tensor.requires_grad for tensor in network.parameters())
        assert not network.training


def assert_alike(build, build_plain, config) -> None:  # type: ignore[no-untyped-def]
    made: list[nn.Module] = []
    for builder in (build, build_plain):
        torch.manual_seed(3)
        made.append(builder(config))
    model, plain = (network.state_dict() for network in made)
    assert list(model) == list(plain)
    assert all(torch.equal(model[name], plain[name]) for name in model)
