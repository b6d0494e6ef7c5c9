"""Reads and writes safetensors files tensor by tensor, in a fixed order, with checked headers.

Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from paris_p2p.disk import NO_ROOM, replacing
from paris_p2p.errors import CheckpointError, DiskFullError, ReadOnlyError

Shapes = Mapping[str, tuple[int, ...]]
MAX_METADATA_BYTES = 1 << 20
_WORDS = {torch.bfloat16: "BF16", torch.float32: "F32", torch.uint8: "U8"}


@contextmanager
def open_tensors(
    path: Path, shapes: Shapes, dtypes: tuple[torch.dtype, ...], metadata: Mapping[str, str]
) -> Iterator[Callable[[str], Tensor]]:
    """Opens a reader of single tensors, given only when the whole header is as it must be.

    CheckpointError when names, shapes, types or metadata differ, or the file cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            _check_header(path, file, shapes, dtypes, metadata)
            yield file.get_tensor
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path.name} is not a readable safetensors file: {str(error)[:160]}"
        ) from error


def write_tensors(
    path: Path, metadata: Mapping[str, str], dtype: torch.dtype, tensors: Mapping[str, Tensor]
) -> None:
    """Writes one safetensors file, atomically; DiskFullError, ReadOnlyError.

    A temporary file is removed when that fails.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    write_pieces(path, metadata, dtype, shapes, (_bytes_of(tensor, dtype) for tensor in tensors.values()))


def write_pieces(
    path: Path, metadata: Mapping[str, str], dtype: torch.dtype, shapes: Shapes, pieces: Iterable[memoryview]
) -> None:
    """Writes such a file of the bytes of its tensors, which come one by one, in the order of `shapes`.

    DiskFullError, ReadOnlyError.
    """
    try:
        with replacing(path) as file:
            file.write(_header(metadata, dtype, shapes))
            for piece in pieces:
                file.write(piece)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise DiskFullError(
                f"no space left for the checkpoint {path}; free some, or lower --max-disk"
            ) from error
        raise ReadOnlyError(f"cannot write the checkpoint {path}: {error.strerror}") from error


def _bytes_of(tensor: Tensor, dtype: torch.dtype) -> memoryview:
    plain = tensor.detach().to("cpu", dtype).contiguous()
    return plain.flatten().view(torch.uint8).numpy().data


def _check_header(
    path: Path, file: Any, shapes: Shapes, dtypes: tuple[torch.dtype, ...], metadata: Mapping[str, str]
) -> None:
    names = set(file.keys())
    if names != set(shapes):
        odd = sorted(names ^ set(shapes))
        few = [name[:80] for name in odd[:3]]
        raise CheckpointError(
            f"{path.name} has {len(names)} tensors, the network {len(shapes)}; they differ in {few}"
        )
    words = [_WORDS[dtype] for dtype in dtypes]
    for name, shape in shapes.items():
        part = file.get_slice(name)
        if part.get_dtype() not in words or tuple(part.get_shape()) != tuple(shape):
            found = f"{part.get_dtype()} {part.get_shape()}"
            raise CheckpointError(
                f"{name} in {path.name} is {found}, the network needs {' or '.join(words)} {list(shape)}"
            )
    found_metadata = file.metadata() or {}
    if (long := sum(len(key) + len(value) for key, value in found_metadata.items())) > MAX_METADATA_BYTES:
        raise CheckpointError(
            f"{path.name} has {long:,} bytes of metadata, at most {MAX_METADATA_BYTES:,} are read"
        )
    for key, value in metadata.items():
        if found_metadata.get(key) != value:
            said = str(found_metadata.get(key))[:80]
            raise CheckpointError(f"{path.name} says {key} = {said!r}, its card and run say {value!r}")


def _header(metadata: Mapping[str, str], dtype: torch.dtype, shapes: Shapes) -> bytes:
    entries: dict[str, Any] = {"__metadata__": dict(metadata)}
    at = 0
    for name, shape in shapes.items():
        size_bytes = prod(shape) * dtype.itemsize
        entries[name] = {
            "dtype": _WORDS[dtype],
            "shape": list(shape),
            "data_offsets": [at, at + size_bytes],
        }
        at += size_bytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data stays aligned
    return len(text).to_bytes(8, "little") + text
