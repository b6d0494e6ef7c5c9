"""Keeps all experts of a run as one diffusers model, because a pipeline's component is one object.

Each expert has a folder of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from paris_p2p.errors import UsageError
from paris_p2p.model.presets import Config, build_expert
from paris_p2p.model.saved import config_of, fill


class ExpertSet(ModelMixin, ConfigMixin):
    """Holds the experts `present` out of `total`, all with the same numbers; each is usable alone.

    Those in `ddpm` predict noise on the cosine schedule, not a velocity; the clamp is that of their
    conversion (flow/ddpm.py).
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        total: int,
        present: list[int],
        expert: Config,
        ddpm: Sequence[int] = (),
        clamp_x0: float = 20.0,
        clamp_alpha: float = 0.1,
    ):
        super().__init__()
        self.total, self.present = total, sorted(present)
        self.folder: Path | None = None  # that it was loaded from
        self.experts = nn.ModuleDict({str(k): build_expert(expert) for k in self.present})

    def state(self, k: int) -> dict[str, Tensor]:
        """Returns expert k's tensors, shared, not copied."""
        return dict(self.expert(k).named_parameters())

    def expert(self, k: int) -> Any:
        """Returns expert k, a network of its own."""
        return self.experts[str(k)]

    def save_pretrained(
        self,
        save_directory: str | Path,
        variant: str | None = None,
        max_shard_size: int | str = "10GB",
        **options: Any,
    ) -> None:
        """Writes the configuration, and each expert into its own folder, with diffusers' options."""
        # They are named one by one, because a pipeline passes on no others.
        sizes = {"variant": variant, "max_shard_size": max_shard_size}
        self.save_config(save_directory)
        for k in self.present:
            self.expert(k).save_pretrained(Path(save_directory) / folder_of(k), **sizes, **options)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        torch_dtype: torch.dtype | None = None,
        dtype: torch.dtype | None = None,
        variant: str | None = None,
        **options: Any,
    ) -> ExpertSet:
        """Reads a folder that `save_pretrained` wrote, in the stored type unless one is named.

        None of diffusers' other options applies: nothing is fetched, and only safetensors are read.
        UsageError when the files are missing or belong to other networks.
        """
        folder = Path(pretrained_model_name_or_path).absolute()
        with torch.device("meta"):
            experts: ExpertSet = cls.from_config(_checked(config_of(folder), folder))
        for k in experts.present:
            fill(experts.expert(k), folder / folder_of(k), dtype or torch_dtype, variant)
        experts.requires_grad_(False).eval()
        experts.folder = folder
        return experts


def _checked(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Returns the numbers of a set; UsageError when no run has such experts, or the folder lacks some."""
    try:
        numbers = _Numbers.model_validate(config)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageError(
            f"{folder / 'config.json'}: {where} is {str(first['input'])[:80]}: {first['msg']}; "
            "do not trust this model"
        ) from error
    known = set(range(numbers.total))
    odd = sorted({*numbers.present, *numbers.ddpm} - known) or (
        numbers.present if len(set(numbers.present)) < len(numbers.present) else []
    )
    if odd:
        raise UsageError(
            f"{folder / 'config.json'} names experts {odd[:4]} of {numbers.total}, or names one twice; "
            "do not trust this model"
        )
    missing = [k for k in numbers.present if not (folder / folder_of(k)).is_dir()]
    if missing:
        raise UsageError(f"{folder / folder_of(missing[0])} is not there; take the model's own files anew")
    return config


class _Numbers(BaseModel):
    """Holds what may stand in a set's config.json; build_expert checks the numbers of an expert."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    total: Annotated[int, Field(ge=1, le=256)]
    present: Annotated[list[int], Field(min_length=1, max_length=256)]
    expert: dict[str, int | float | str | bool]
    ddpm: Annotated[list[int], Field(max_length=256)] = []
    clamp_x0: Annotated[float, Field(gt=0)] = 20.0
    clamp_alpha: Annotated[float, Field(gt=0, lt=1)] = 0.1


def folder_of(k: int) -> str:
    """Returns the name of expert k's folder, which is its slot's."""
    return f"expert-{k}"
