"""The words that an option takes, so that --help lists them and a wrong one is refused by name.

They stand here as well as in the tables they choose from, because those import torch and --help may not; a
test holds the two together.
"""

from __future__ import annotations

from typing import Literal

Optimizer = Literal["adamw", "muon"]
EmaProfile = Literal["exponential", "power"]
ExpertPreset = Literal[
    "nano",
    "micro",
    "tiny",
    "small",
    "medium",
    "large",
    "dit-b-2",
    "dit-xl-2",
    "mmdit-nano",
    "mmdit-tiny",
    "mmdit-11b",
]
RouterPreset = Literal["nano", "micro", "tiny", "small", "medium", "dit-b-2"]
# the others need what only a test knows
RoutingName = Literal["top_k", "full", "threshold", "uniform", "kept", "text"]
GuidanceForm = Literal["per_expert", "exact"]
HeldOut = Literal["test", "validation"]
SchedulerName = Literal["euler", "heun", "unipc", "dpm++", "dpm++sde", "dpm++single"]
