"""Reads the weights of one of our networks from its folder, as diffusers' `save_pretrained` writes them.

diffusers' loader is not used: it sets torch's default type for the whole process while it loads, so that a
second thread would compute in it. Nothing but safetensors is opened.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from paris_p2p.bounded_json import read_json
from paris_p2p.errors import UsageError
from paris_p2p.model_folder import check_safetensors, index_of, loading
from paris_p2p.weights import MAX_CONFIG_BYTES

NAME = "diffusion_pytorch_model"


def fill(
    network: nn.Module, folder: Path, dtype: torch.dtype | None = None, variant: str | None = None
) -> None:
    """Puts a folder's weights into a network that was built on the meta device.

    They are cast to `dtype` unless it is None. UsageError when they are missing or belong to another network.
    """
    tensors: dict[str, Tensor] = {}
    for path in _files(folder, f".{variant}" if variant else ""):
        check_safetensors(path)
        with loading("the weights", folder), safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no dict
                tensor = file.get_tensor(name)
                # a number that is not finite would come out as noise, or as an expert that is always chosen
                if not bool(tensor.float().isfinite().all()):
                    raise UsageError(f"{name} in {path} is not finite; take the model's own files anew")
                tensors[name] = tensor if dtype is None else tensor.to(dtype)
    with loading("the weights", folder):
        network.load_state_dict(tensors, assign=True)
    network.requires_grad_(False).eval()


def config_of(folder: Path) -> dict[str, Any]:
    """Returns the numbers of a network or of a set of them; UsageError when config.json holds none."""
    config = read_json(folder / "config.json", MAX_CONFIG_BYTES)
    if not isinstance(config, dict):
        raise UsageError(f"{folder / 'config.json'} is not an object; take the model's own files anew")
    return config


def check_indices(folder: Path) -> None:
    """Raises UsageError unless every index of sharded weights in the folder names safetensors files alone."""
    for path in folder.rglob("*.index*.json"):
        index_of(path)


def _files(folder: Path, variant: str) -> list[Path]:
    check_indices(folder)
    index = folder / f"{NAME}.safetensors.index{variant}.json"
    names = sorted(set(index_of(index).values())) if index.is_file() else [f"{NAME}{variant}.safetensors"]
    paths = [folder / name for name in names]
    for path in paths:
        if not path.is_file():
            raise UsageError(f"{path} is not there; take the model's own files anew")
    return paths
