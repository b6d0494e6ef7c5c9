"""Reads somebody else's safetensors for `paris-run create --init-from`, the weights to start from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from blake3 import blake3
from safetensors import SafetensorError, safe_open
from torch import Tensor

from paris_p2p.disk import named_path
from paris_p2p.errors import UsageError
from paris_p2p.model.checkpoint import write_initial
from paris_p2p.model.presets import Config, build_expert
from paris_p2p.model.pretrained import Start, fitted_config, start_from
from paris_p2p.model_folder import check_safetensors, index_of
from paris_p2p.weights import ModelFiles

PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl")
NAMES = ("diffusion_pytorch_model.safetensors", "model.safetensors")
INDEX = ".index.json"


class Checkpoint(Mapping[str, Tensor]):
    """Maps names to the tensors of one or several safetensors files, read when asked for.

    `numbers` is the config.json beside them, or empty.
    """

    def __init__(self, files: list[Path], numbers: dict[str, Any]):
        self.numbers = numbers
        self._where: dict[str, Any] = {}
        for path in files:
            check_safetensors(path)
            try:
                file: Any = safe_open(path, framework="pt")
                self._where.update(dict.fromkeys(file.keys(), file))
            except (SafetensorError, OSError) as error:
                raise UsageError(
                    f"{path} is not a readable safetensors file ({str(error)[:160]}); fetch it again"
                ) from error

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._where[name].get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)

    @property
    def dtype(self) -> torch.dtype:
        """Returns the type that loses nothing: bfloat16 where all tensors are, float32 otherwise."""
        halves = all(file.get_slice(name).get_dtype() == "BF16" for name, file in self._where.items())
        return torch.bfloat16 if halves else torch.float32


def make_initial(path: Path, config: Config, rng_seed: int, out: Path) -> tuple[Config, Start]:
    """Writes the first weights of an expert with these numbers to `out`; returns the numbers and the account.

    The numbers have the checkpoint's rotary. What the checkpoint does not give is drawn from `rng_seed`: the
    same for all experts. UsageError, DivergedError.
    """
    source = open_checkpoint(path)
    config = fitted_config(config, source, source.numbers)
    seed = int.from_bytes(blake3(f"paris-p2p/1 initial\0{rng_seed}".encode()).digest()[:8], "little") >> 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_expert(config)
    start = start_from(network, source)
    write_initial(out, start.tensors, source.dtype)
    return config, start


def open_checkpoint(path: Path) -> Checkpoint:
    """Opens a safetensors file, a diffusers model's or pipeline's folder, or an exported expert's.

    UsageError says what else it is.
    """
    path = named_path(path)
    if path.is_file():
        _refuse_pickle(path)
        return Checkpoint([path], _numbers(path.parent))
    if not path.is_dir():
        raise UsageError(f"--init-from {path}: there is no such file or folder")
    for inside in ("transformer", "experts"):
        if not _files(path) and (path / inside).is_dir():
            return open_checkpoint(path / inside)
    files = _files(path)
    if files:
        return Checkpoint(files, _numbers(path))
    experts = sorted(folder for folder in path.glob("expert-*") if folder.is_dir())
    if len(experts) == 1:
        return open_checkpoint(experts[0])
    if experts:
        raise UsageError(
            f"{path} holds {len(experts)} experts, and their clusters are not this run's: "
            f"name one, as --init-from {experts[0]}"
        )
    for other in sorted(path.iterdir()):
        _refuse_pickle(other)
    raise UsageError(
        f"{path} holds no weights: it needs {NAMES[0]}, {NAMES[0]}{INDEX}, or one other safetensors file"
    )


def _files(folder: Path) -> list[Path]:
    """Returns the safetensors files right inside a folder that make one model."""
    for name in NAMES:
        if (folder / (name + INDEX)).is_file():
            return _indexed(folder, folder / (name + INDEX))
        if (folder / name).is_file():
            return [folder / name]
    found = sorted(folder.glob("*.safetensors"))
    return found if len(found) == 1 else []


def _indexed(folder: Path, index: Path) -> list[Path]:
    """Returns a sharded model's files; their names stay inside the folder."""
    return [folder / name for name in sorted(set(index_of(index).values()))]


def _numbers(folder: Path) -> dict[str, Any]:
    return ModelFiles(folder, (), "", "").config() if (folder / "config.json").is_file() else {}


def _refuse_pickle(path: Path) -> None:
    if path.suffix in PICKLES:
        raise UsageError(
            f"{path} is a pickle, which can run code when it is read, and is never opened here; "
            "fetch the model's safetensors, or convert it where you trust it: "
            "torch.load(..., weights_only=True), then safetensors.torch.save_file"
        )
