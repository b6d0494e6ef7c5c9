"""Makes the router a model of diffusers, which is saved and read with a pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin

from paris_p2p.model.calibration import Calibration, configured
from paris_p2p.model.network_numbers import check_network
from paris_p2p.model.plain_router import PlainRouter
from paris_p2p.model.saved import config_of, fill


class Router(PlainRouter, ModelMixin, ConfigMixin):
    """Keeps its numbers as its configuration, and its calibration with them."""

    config: Any  # the numbers, by name, and the calibration

    __init__ = register_to_config(PlainRouter.__init__)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, *, variant: str | None = None, **options: Any
    ) -> Router:
        """Reads a folder that `save_pretrained` wrote, always in float32.

        The router is small, and its choice must not depend on rounding. UsageError when the files are missing
        or belong to another network.
        """
        folder = Path(pretrained_model_name_or_path)
        numbers = {name: value for name, value in config_of(folder).items() if not name.startswith("_")}
        if numbers.get("first_width") == 0:  # the constructor's word for none; a run's numbers leave it out
            del numbers["first_width"]
        calibration = configured(numbers.pop("calibration", None))
        check_network(numbers, cls)
        with torch.device("meta"):
            router: Router = cls(**numbers)
        router.calibrate(calibration)
        fill(router, folder, torch.float32, variant)
        return router

    def to(self, *arguments: Any, **options: Any) -> Router:
        """Moves the router to a device; a type is ignored, since it stays in float32."""
        options.pop("dtype", None)
        arguments = tuple(each for each in arguments if not isinstance(each, torch.dtype))
        moved: Router = super().to(*arguments, **options) if (*arguments, *options) else self
        return moved

    def calibrate(self, calibration: Calibration | None) -> None:
        """Sets what model/posterior.py goes by and what is saved with the router; None: as it was trained."""
        if calibration != self.calibration:
            shares = None if calibration is None else list(calibration.shares)
            ConfigMixin.register_to_config(self, calibration=shares)
        super().calibrate(calibration)
