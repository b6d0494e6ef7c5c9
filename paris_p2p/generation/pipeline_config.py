"""The numbers of its run that a pipeline keeps in model_index.json, checked, since a folder may come from
anybody.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from paris_p2p.errors import UsageError
from paris_p2p.flow.mixture import Routing
from paris_p2p.model.experts import ExpertSet
from paris_p2p.model.router import Router
from paris_p2p.spec import Size

MAX_LATENT_VALUES = 1 << 28  # of one clip: 1 GiB in float32
_Word = Annotated[str, Field(max_length=2000)]


class PipelineConfig(BaseModel):
    """Holds what `ParisPipeline` is made with, beside its components."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    latent_shape: Annotated[list[Size], Field(min_length=4, max_length=4, strict=False)]  # C, T, H, W
    clip_shape: Annotated[list[Size], Field(strict=False)]  # T, H, W in pixels, or nothing
    fps: Annotated[float, Field(gt=0, le=1000)]
    text_tokens: Annotated[int, Field(ge=1, le=4096)]
    time_mean: float
    time_std: Annotated[float, Field(gt=0)]
    first_frame_rate: Annotated[float, Field(ge=0, le=1)]
    run: _Word
    run_name: _Word
    data_id: _Word
    codec_name: _Word
    codec_revision: _Word
    codec_sha256: _Word
    text_name: _Word
    text_revision: _Word
    text_sha256: _Word
    features_name: _Word
    features_revision: _Word
    features_sha256: _Word
    trained: Annotated[dict[str, dict[str, Any]], Field(max_length=257)]  # of 256 experts and a router
    routing: Literal["top_k", "full", "threshold", "uniform", "kept", "text"] = "top_k"
    kept_until: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @field_validator("latent_shape")
    @classmethod
    def _fits_a_memory(cls, shape: list[int]) -> list[int]:
        if math.prod(shape) > MAX_LATENT_VALUES:
            raise ValueError(f"is more than {MAX_LATENT_VALUES:,} values a clip")
        return shape

    @field_validator("clip_shape")
    @classmethod
    def _has_three_sides(cls, shape: list[int]) -> list[int]:
        if len(shape) not in (0, 3):
            raise ValueError("is not frames, height and width")
        return shape


def check_config(values: Mapping[str, Any]) -> None:
    """Raises UsageError for a value that no run has."""
    try:
        config = PipelineConfig(**values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        limit = first["msg"].removeprefix("Input ").removeprefix("Value error, ")
        raise UsageError(
            f"the pipeline's {where} is {str(first['input'])[:80]}: {limit}; do not trust this model"
        ) from error
    Routing(config.routing, kept_until=config.kept_until)


def check_components_fit(experts: object, router: object, latent_shape: list[int] | None) -> None:
    """Raises UsageError when experts and router cannot have been trained together, or are others' classes."""
    if not isinstance(experts, ExpertSet) or not isinstance(router, Router | None):
        raise UsageError(
            f"the pipeline's experts are a {type(experts).__name__}, its router a {type(router).__name__}; "
            "give an ExpertSet, and a Router or None"
        )
    if router is not None and router.config["experts"] != experts.total:
        raise UsageError(
            f"the router chooses among {router.config['experts']} experts and there are {experts.total}; "
            "take both from one model"
        )
    channels = experts.config["expert"]["channels"]
    if latent_shape is not None and latent_shape[0] != channels:
        raise UsageError(
            f"latent_shape is {latent_shape}, and the experts take {channels} channels; "
            "take both from one model"
        )
