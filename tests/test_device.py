"""A device that is not there is an error with words; what is there is described."""

from __future__ import annotations

import pytest
import torch

from paris_p2p.device import NO_BFLOAT16, compile_blocks, pick_device, resident_bytes, set_threads
from paris_p2p.errors import DeviceError
from paris_p2p.model.presets import build_expert, build_router, expert_config, router_config
from paris_p2p.spec import LatentShape, TextShape


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "cuda:x", "cuda:", "cuda:-1", "mps"])
def test_a_device_that_is_not_there_is_an_error_that_names_it(name: str) -> None:
    with pytest.raises(DeviceError, match=name):
        pick_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without a GPU does")
def test_without_a_gpu_auto_is_the_cpu_and_cuda_is_refused() -> None:
    assert str(pick_device("auto")) == "cpu"
    with pytest.raises(DeviceError, match="0 are here"):
        pick_device("cuda")


def test_autocast_follows_the_precision_that_is_told() -> None:
    device = pick_device("cpu")
    with device.autocast():
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if device.precision == "bf16" else torch.float32)
    assert device.memory_bytes() >= resident_bytes() // 2 > 0


@pytest.mark.parametrize(
    ("said", "allowed"), [(None, True), ("", True), ("0", True), ("1", False), ("yes", False)]
)
def test_the_environment_refuses_bfloat16(
    said: str | None, allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paris_p2p.device._cpu_has_bf16", lambda: True)
    monkeypatch.delenv(NO_BFLOAT16, raising=False)
    if said is not None:
        monkeypatch.setenv(NO_BFLOAT16, said)
    assert pick_device("cpu").bf16 is allowed


def test_threads_are_limited_and_zero_leaves_them() -> None:
    torch.set_num_threads(2)
    set_threads(1)
    set_threads(0)
    assert torch.get_num_threads() == 1


LATENT, TEXT = LatentShape(channels=2, frames=2, height=4, width=4), TextShape(tokens=3, dim=8, pooled_dim=8)


@pytest.mark.parametrize("preset", ["nano", "mmdit-nano", "router"])
def test_compiled_blocks_answer_as_before_and_their_weights_keep_their_names(preset: str) -> None:
    network, inputs = _network(preset)
    before, names = network(*inputs), [name for name, _ in network.named_parameters()]
    compiled = []

    def backend(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> torch.fx.GraphModule:
        compiled.append(graph)
        return graph

    compile_blocks(network, backend)
    torch.testing.assert_close(network(*inputs), before)
    assert compiled
    assert [name for name, _ in network.named_parameters()] == names


def test_blocks_that_cannot_be_compiled_run_as_they_are() -> None:
    network, inputs = _network("nano")
    before = network(*inputs)

    def backend(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> torch.fx.GraphModule:
        raise RuntimeError("no compiler here")

    compile_blocks(network, backend)
    torch.testing.assert_close(network(*inputs), before)


def _network(preset: str) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    """A network that does not answer zero, and what it asks for."""
    torch.manual_seed(0)
    x_t, t, tokens = torch.randn(2, *LATENT.shape), torch.rand(2), torch.randn(2, TEXT.tokens, TEXT.dim)
    if preset == "router":
        network: torch.nn.Module = build_router(router_config("nano", LATENT, TEXT, 2))
        inputs = (x_t, t, tokens[:, 0])
    else:
        network = build_expert(expert_config(preset, LATENT, TEXT))
        inputs = (x_t, t, tokens, torch.ones(2, TEXT.tokens, dtype=torch.bool), tokens[:, 0])
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return network.requires_grad_(False), inputs
