"""Makes VideoDiT a model of diffusers, which is saved and read with a pipeline."""

from __future__ import annotations

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin

from paris_p2p.model.plain_dit import PlainVideoDiT


class VideoDiT(PlainVideoDiT, ModelMixin, ConfigMixin):
    """Keeps its numbers as its configuration."""

    _supports_gradient_checkpointing = True
    _no_split_modules = ["Block"]

    __init__ = register_to_config(PlainVideoDiT.__init__)
