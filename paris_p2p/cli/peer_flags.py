"""The options of `paris-peer`, in groups."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from paris_p2p.cli import typed
from paris_p2p.cli.care_flags import CareFlags
from paris_p2p.cli.choices import SchedulerName
from paris_p2p.cli.groups import (
    LINE,
    MACHINE,
    SAMPLING,
    DeviceOption,
    FetchFlags,
    LanOption,
    NodeFlags,
    SamplingFlags,
    ThreadsOption,
    option,
    setting,
)

PROFILED, GPU = "Training; --profile decides what is not given", "On a GPU"


def _profiles() -> list[str]:
    """Returns what completes --profile."""
    from paris_p2p.peer.profiles import known_profiles

    return ["auto", *known_profiles()]


@dataclass(frozen=True)
class StartFlags(CareFlags, FetchFlags, NodeFlags):
    """Holds the options of a volunteer's peer."""

    profile: Annotated[
        str | None,
        setting(
            "profile",
            "auto reads this machine; or a name of peers/profiles, or a TOML file.",
            "NAME",
            "auto",
            panel=PROFILED,
            autocompletion=_profiles,
        ),
    ] = None
    device: Annotated[
        str | None,
        setting("device", "auto, cpu, cuda or cuda:N.", "DEVICE", panel=PROFILED, parser=typed.device),
    ] = None
    threads: Annotated[
        int | None,
        setting("threads", "CPU threads of the trainer; 0 for torch's own choice.", "N", panel=PROFILED),
    ] = None
    max_memory: Annotated[
        str | None,
        setting(
            "max_memory",
            "Main memory of all our processes, like 12GB; before it is reached, training writes a "
            "checkpoint, rests, and goes on with half the clips at once.",
            "SIZE",
            panel=PROFILED,
        ),
    ] = None
    micro_batch: Annotated[
        int | None,
        setting("micro_batch", "Clips per forward pass; 0 chooses by memory.", "N", "0", panel=PROFILED),
    ] = None
    max_vram: Annotated[
        str | None,
        setting("max_vram", "Memory of the GPU that trains, like 10GB; 0: all of it.", "SIZE", panel=GPU),
    ] = None
    compile: Annotated[
        bool | None,
        setting(
            "compile", "Fuse the network's blocks.", None, "true", panel=GPU, flag="--compile/--no-compile"
        ),
    ] = None
    preview_minutes: Annotated[
        float | None,
        setting(
            "preview_minutes",
            "Minutes between two sets of preview clips of the run, at least; 0: none are made.",
            "N",
            "0",
        ),
    ] = None
    lan: LanOption = None
    slot: Annotated[
        str | None,
        setting("slot", "Claim only this slot, like expert-2 or router.", "SLOT"),
    ] = None
    relays: Annotated[
        list[str] | None,
        setting(
            "relays",
            "A relay, for a peer behind NAT; may be repeated.",
            "MULTIADDR",
            panel=LINE,
            flag="--relay",
        ),
    ] = None


@dataclass(frozen=True)
class WishFlags(SamplingFlags):
    """Holds the options of a clip that is to be made."""

    image: Annotated[
        Path | None,
        option(
            "A picture that the clips start from, in a run that was trained for it.",
            "FILE",
            parser=typed.file("a picture"),
        ),
    ] = None
    clips: Annotated[int, option("Clips per prompt.", "N", min=1)] = 1
    rng_seed: Annotated[
        int, option("The same seed gives the same clips.", "N", "--seed", "--rng-seed", min=0)
    ] = 0
    negative_prompt: Annotated[
        str, option("What clips are guided away from; without one, away from no text.", "TEXT")
    ] = ""
    scheduler: Annotated[
        SchedulerName,
        option(
            "How a step is taken: euler, heun, unipc, dpm++, dpm++sde or dpm++single.", "NAME", panel=SAMPLING
        ),
    ] = "euler"
    allow_partial: Annotated[
        bool, option("Route among the slots that there are.", None, "--allow-partial")
    ] = False
    shift: Annotated[
        float,
        option(
            "Shift of the denoising times, towards noise above 1; 0 for the run's own.",
            "SHIFT",
            panel=SAMPLING,
            min=0,
            max=100,
        ),
    ] = 0.0
    batch_clips: Annotated[
        int, option("Clips sampled at once; 0 chooses by memory.", "N", panel=MACHINE, min=0)
    ] = 0
    threads: ThreadsOption = 0
    device: DeviceOption = "auto"
