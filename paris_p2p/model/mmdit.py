"""Makes MMDiT a model of diffusers, which is saved and read with a pipeline."""

from __future__ import annotations

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin

from paris_p2p.model.plain_mmdit import PlainMMDiT


class MMDiT(PlainMMDiT, ModelMixin, ConfigMixin):
    """Keeps its numbers as its configuration."""

    _supports_gradient_checkpointing = True
    _no_split_modules = ["DoubleBlock", "SingleBlock"]

    __init__ = register_to_config(PlainMMDiT.__init__)
