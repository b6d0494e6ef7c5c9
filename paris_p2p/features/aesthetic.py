"""Rates pictures on a scale of 1 to 10 with LAION's aesthetic heads, linear in CLIP ViT-L/14's unit vectors.

V1 is one linear layer (github.com/LAION-AI/aesthetic-predictor); V2 is five without anything between them, so
it is linear too (github.com/christophschuhmann/improved-aesthetic-predictor).
Legend: N clips, F features of CLIP.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from paris_p2p.errors import UsageError
from paris_p2p.weights import read_pinned

MAX_HEAD_BYTES = 64 << 20
_V2_LAYERS = (0, 2, 4, 6, 7)  # between them is dropout, which does nothing here
_V2_WIDTHS = (1024, 128, 64, 16, 1)


@dataclass(frozen=True)
class AestheticHead:
    """Rates clips.

    As it is linear, the mean over a clip's frames is its value on the mean of their unit vectors.
    """

    sha256: str
    weight: Tensor  # [F]
    bias: float

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Rates means of unit vectors as ClipFeatures gives them, [N F] -> [N]."""
        if embeddings.ndim != 2 or embeddings.shape[1] != len(self.weight):
            raise UsageError(
                f"the aesthetic head takes {len(self.weight)} features, got {tuple(embeddings.shape)}: "
                "use CLIP ViT-L/14"
            )
        return embeddings.cpu().float() @ self.weight + self.bias


def load_aesthetic(path: Path, *, sha256: str = "") -> AestheticHead:
    """Loads a head from a safetensors file (docs/evaluation.md says how to convert a `.pth`).

    BlobError when it is not the one that `sha256` names.
    """
    content, found = read_pinned(path, max_bytes=MAX_HEAD_BYTES, sha256=sha256)
    try:
        tensors = {name: tensor.double() for name, tensor in load(content).items()}
    except SafetensorError as error:
        raise UsageError(
            f"{path} is not a safetensors file ({error}); docs/evaluation.md says how to convert a .pth"
        ) from error
    weight, bias = _linear(tensors) or _composed(tensors) or _unknown(path, tensors)
    return AestheticHead(found, weight.squeeze(0).float(), float(bias))


def _linear(tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor] | None:
    """Returns the layer of V1, by whatever name; None when the tensors are not V1's."""
    by_kind = {name.rpartition(".")[2]: tensor for name, tensor in tensors.items()}
    if len(tensors) != 2 or set(by_kind) != {"weight", "bias"}:
        return None
    weight, bias = by_kind["weight"], by_kind["bias"]
    return (weight, bias) if weight.ndim == 2 and len(weight) == 1 and bias.shape == (1,) else None


def _composed(tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor] | None:
    """Returns V2's layers multiplied into one; None when the tensors are not V2's."""
    names = [f"layers.{layer}.{kind}" for layer in _V2_LAYERS for kind in ("weight", "bias")]
    if set(tensors) != set(names):
        return None
    if tuple(len(tensors[f"layers.{layer}.bias"]) for layer in _V2_LAYERS) != _V2_WIDTHS:
        return None
    weight, bias = tensors["layers.0.weight"], tensors["layers.0.bias"]
    for layer in _V2_LAYERS[1:]:
        after = tensors[f"layers.{layer}.weight"]
        if after.shape != (len(tensors[f"layers.{layer}.bias"]), len(weight)):
            return None
        weight, bias = after @ weight, after @ bias + tensors[f"layers.{layer}.bias"]
    return weight, bias


def _unknown(path: Path, tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in list(tensors.items())[:4])
    raise UsageError(
        f"{path} is not an aesthetic head known here: it holds {shapes}; "
        "V1 has weight and bias, V2 layers.0 to layers.7"
    )
