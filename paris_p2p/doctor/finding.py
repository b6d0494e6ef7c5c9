"""What `paris doctor` says: findings, each with what was found, what is wanted and what mends it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA = 1  # of the JSON; a field that is added leaves it, one that changes its meaning raises it

# good; note: worth knowing, and nothing is worse for it; unknown: it could not be looked at here; poor: this
# machine will be of less use; cannot: it cannot take part until that is mended.
Verdict = Literal["good", "note", "unknown", "poor", "cannot"]
EXIT_STATUS: dict[Verdict, int] = {"good": 0, "note": 0, "unknown": 0, "poor": 2, "cannot": 1}


class Finding(BaseModel):
    """One check's result; `numbers` holds its measures, with the unit in each name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    check: str = Field(pattern=r"^[a-z][a-z0-9-]{1,40}$")
    verdict: Verdict
    found: str
    wanted: str = ""
    mend: str = ""  # the command or setting that mends it
    numbers: dict[str, float] = {}


class SlotOutlook(BaseModel):
    """What training one slot of a run would be like on this machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    slot: str
    preset: str
    fits: bool
    needs_memory_bytes: int
    needs_vram_bytes: int = 0
    micro_batch_clips: int = 0  # clips through the network at once; 0: not tried
    clips_per_s: float = 0.0  # of the trial; 0: not tried
    checkpoint_bytes: int
    upload_s: float = 0.0  # of a checkpoint, by the measured upload; 0: not measured
    days_left: float | None = None  # until the slot has all its steps, at the trial's speed
    lead: str = ""  # peer id of who trains it now
    why: str = ""  # it does not fit, or was not tried


class Diagnosis(BaseModel):
    """All that a look found."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # The name `schema` is pydantic's own.
    schema_version: int = SCHEMA
    at: float  # Unix time
    version: str  # of paris-p2p
    verdict: Verdict
    exit_status: int
    run: str = ""  # the run's id, where an invite was given
    findings: tuple[Finding, ...]
    slots: tuple[SlotOutlook, ...] = ()


def worst_of(findings: Iterable[Finding]) -> Verdict:
    """Returns the worst verdict of several findings that says something of taking part; `good` of none."""
    verdicts = {finding.verdict for finding in findings}
    return "cannot" if "cannot" in verdicts else "poor" if "poor" in verdicts else "good"
