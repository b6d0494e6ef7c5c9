"""Says how the experts of a run are asked for a clip: the routing, the guidance, and when it counts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from paris_p2p.errors import UsageError
from paris_p2p.flow.guidance import EVERYWHERE, GuidedTimes, check_form, check_interval
from paris_p2p.flow.mixture import Routing

MAX_STEPS = 1000  # of one clip


@dataclass(frozen=True)
class Wishes:
    """How each step asks the experts; UsageError for a form or an interval that there is not."""

    routing: Routing = field(default_factory=Routing)
    guidance_form: str = "per_expert"
    guidance_interval: GuidedTimes = EVERYWHERE
    autoguide_scale: float = 2.0  # where older experts are given; 1: they are not asked

    def __post_init__(self) -> None:
        check_form(self.guidance_form)
        check_interval(self.guidance_interval)


def _two_times(value: Any) -> Any:
    """Returns `LOW,HIGH` as two words, and anything else as it is."""
    return tuple(value.split(",")) if isinstance(value, str) else value


class SamplingWishes(BaseModel):
    """How clips are drawn from a model, as a person asks for it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] = 50
    guidance: Annotated[float, Field(ge=0, le=1000)] = 4.0
    guidance_form: str = "per_expert"
    guidance_interval: Annotated[GuidedTimes, BeforeValidator(_two_times)] = EVERYWHERE
    routing: str = "top_k"
    top_k: Annotated[int, Field(ge=1)] = 1
    kept_until: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of the routing `kept`
    autoguide: Path | None = None  # an earlier export of the run
    autoguide_scale: Annotated[float, Field(ge=0, le=1000)] = 2.0

    def wishes(self) -> Wishes:
        """Returns how the experts are asked; UsageError for what cannot be, before anything that takes
        long.
        """
        return Wishes(self.named_routing(), self.guidance_form, self.guidance_interval, self.autoguide_scale)

    def in_words(self) -> str:
        """Returns one sentence for a report: steps, guidance, and who is asked when."""
        low, high = self.guidance_interval
        when = "" if self.guidance_interval == EVERYWHERE else f" for t from {low:g} to {high:g}, 1 elsewhere"
        older = f", autoguidance {self.autoguide_scale:g}" if self.autoguide is not None else ""
        return (
            f"Clips were made in {self.steps} steps with guidance {self.guidance:g} ({self.guidance_form})"
            f"{when}{older}, routed by {self.named_routing().in_words()}."
        )

    def named_routing(self) -> Routing:
        """Returns the routing; UsageError for one that there is not, or that prompts cannot be sampled
        with.
        """
        if self.routing == "oracle":
            raise UsageError(
                "routing oracle needs each clip's true cluster, and prompts have none; choose top_k, full, "
                "threshold, uniform, kept or text"
            )
        return Routing(self.routing, self.top_k, kept_until=self.kept_until)
