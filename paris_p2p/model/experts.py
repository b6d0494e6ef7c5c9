"""ExpertSet: all experts of a run as one diffusers model, one folder each, because a pipeline's component
is one object.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from paris_p2p.model.presets import Config, build_expert, expert_class


class ExpertSet(ModelMixin, ConfigMixin):
    """The experts `present` out of `total`, all with the same numbers; each is usable alone, from its own
    folder.

    Those in `ddpm` predict noise on the cosine schedule, not a velocity; the clamp is of their conversion
    (flow/ddpm.py).
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
        self.experts = nn.ModuleDict({str(k): build_expert(expert) for k in self.present})

    def state(self, k: int) -> dict[str, Tensor]:
        """Expert k's tensors, shared, not copied."""
        return dict(self.expert(k).named_parameters())

    def expert(self, k: int) -> Any:
        return self.experts[str(k)]

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> None:
        self.save_config(save_directory)
        for k in self.present:
            self.expert(k).save_pretrained(Path(save_directory) / folder_of(k), **options)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> ExpertSet:
        folder = Path(pretrained_model_name_or_path)
        with torch.device("meta"):  # the experts come from their own folders, one by one
            experts: ExpertSet = cls.from_config(cls.load_config(folder))
        for k in experts.present:
            experts.experts[str(k)] = expert_class(experts.config["expert"]).from_pretrained(
                folder / folder_of(k), **options
            )
        experts.requires_grad_(False).eval()
        return experts


def folder_of(k: int) -> str:
    return f"expert-{k}"
