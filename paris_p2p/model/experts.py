"""Keeps all experts of a run as one diffusers model, because a pipeline's component is one object.

Each expert has a folder of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from paris_p2p.model.presets import Config, build_expert
from paris_p2p.model.saved import fill


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
            experts: ExpertSet = cls.from_config(cls.load_config(folder))
        for k in experts.present:
            fill(experts.expert(k), folder / folder_of(k), dtype or torch_dtype, variant)
        experts.requires_grad_(False).eval()
        experts.folder = folder
        return experts


def folder_of(k: int) -> str:
    """Returns the name of expert k's folder, which is its slot's."""
    return f"expert-{k}"
