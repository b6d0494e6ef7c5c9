"""A peer's options: what a person may say to it, over a hardware profile."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ByteSize

from paris_p2p.byte_size import Bytes
from paris_p2p.disk import free_bytes
from paris_p2p.doctor.graphics import torch_apart
from paris_p2p.errors import DeviceError
from paris_p2p.option_sources import (
    Addresses,
    CareOptions,
    FetchOptions,
    Loaded,
    NodeOptions,
    Words,
    load_options,
)
from paris_p2p.peer.machine import auto_profile, this_machine
from paris_p2p.peer.profiles import Profile, load_profile
from paris_p2p.peer_settings import device_name

AUTO = "auto"


class StartOptions(FetchOptions, NodeOptions, CareOptions):
    """Holds the options of a volunteer's peer."""

    profile: str = AUTO
    slot: str = ""
    device: str = "auto"
    threads: int = 0
    max_memory: Bytes = ByteSize(0)
    max_vram: Bytes = ByteSize(0)
    micro_batch: int = 0
    compile: bool = True
    relays: Words = ()
    lan: bool = True
    preview_minutes: float = 0.0


class PublishOptions(NodeOptions):
    """Holds the options of the owner's node, which lives in the folder of its run."""

    threads: int = 1
    peers: Addresses = ()
    lan: bool = True
    preview_minutes: float = 30.0


def load_start(
    typed: Mapping[str, Any], file: Path | None = None
) -> tuple[Loaded[StartOptions], Profile | None]:
    """Returns a peer's options over its profile, and the profile unless this machine is to choose it.

    A profile by name also says which runs fit (peer/start.py); PresetError when there is none of that name.
    """
    plain = load_options(StartOptions, typed, file=file).options
    named = None if plain.profile == AUTO else load_profile(plain.profile)
    profile = named or _profile_of_this_machine(plain)
    options = load_options(
        StartOptions, typed, file=file, profile=profile.options(), profile_name=plain.profile
    )
    return options, named


def _profile_of_this_machine(options: StartOptions) -> Profile:
    """Returns what `--profile auto` means here, for the device that the options name."""
    # Our blobs count as free, or the cap would sink with each restart.
    ours = sum(file.stat().st_size for file in (options.data_dir / "blobs").glob("*/*"))
    return auto_profile(
        this_machine(), device=options.device, free_disk_bytes=free_bytes(options.data_dir) + ours
    )


def check_device(device: str) -> None:
    """Raises DeviceError when a CUDA GPU is asked for that is not here: now, not after a download.

    A process of its own asks: PyTorch and CUDA stay out of the node, which would keep their memory for good.
    """
    kind, _, number = device_name(device).partition(":")
    if kind != "cuda":
        return
    torch = torch_apart()
    if not torch.devices:
        why = f" ({torch.why})" if torch.why else ""
        raise DeviceError(
            f"--device {device}: this PyTorch ({torch.version}) sees no CUDA GPU{why}; "
            "install the driver and a CUDA build, or use --device cpu"
        )
    if int(number or 0) >= torch.devices:
        raise DeviceError(f"--device {device}: there are {torch.devices} CUDA GPUs, numbered from 0")
