"""Makes small networks with weights that say something: fresh ones answer zero."""

from collections.abc import Iterator

import pytest
import torch

from paris_p2p.model.dit import VideoDiT
from paris_p2p.model.presets import build_expert, build_router, expert_config, router_config
from paris_p2p.model.router import Router
from paris_p2p.spec import LatentShape, TextShape

LATENT = LatentShape(channels=4, frames=2, height=4, width=4)
TEXT = TextShape(tokens=5, dim=8, pooled_dim=6)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def expert() -> VideoDiT:
    return stir(build_expert(expert_config("nano", LATENT, TEXT)))


@pytest.fixture
def router() -> Router:
    return stir(build_router(router_config("nano", LATENT, TEXT, experts=3)))


def stir(network):
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network.eval()
