"""A peer's settings: a hardware profile below, the command's flags above."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from paris_p2p.disk import free_bytes
from paris_p2p.errors import DeviceError, UsageError
from paris_p2p.peer.machine import auto_profile, this_machine
from paris_p2p.peer.profiles import Profile
from paris_p2p.spec import PeerSettings, parse_bytes

AUTO = "auto"

_SIZES = {
    "max_disk": "max_disk_bytes",
    "max_memory": "max_memory_bytes",
    "max_vram": "max_vram_bytes",
    "upload_limit": "upload_limit_bps",
    "download_limit": "download_limit_bps",
}


def profile_of_this_machine(flags: Mapping[str, Any]) -> Profile:
    """What `--profile auto` means here, for the device that the flags name."""
    data_dir: Path = flags["data_dir"]
    # or the cap would sink with each restart
    ours = sum(file.stat().st_size for file in (data_dir / "blobs").glob("*/*"))
    return auto_profile(
        this_machine(), device=flags.get("device") or "auto", free_disk_bytes=free_bytes(data_dir) + ours
    )


def merge_settings(profile: Profile | None, flags: Mapping[str, Any]) -> PeerSettings:
    """Settings from a profile and flags; a flag that is None was not given and leaves the profile's value."""
    fields: dict[str, Any] = profile.settings_fields() if profile else {}
    for name, value in flags.items():
        if value is not None:
            fields[_SIZES.get(name, name)] = parse_bytes(value) if name in _SIZES else value
    try:
        return PeerSettings(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(
            f"--{str(first['loc'][0]).replace('_', '-')}: {first['msg']}, got {first['input']!r}"
        ) from error


def check_device(device: str) -> None:
    """DeviceError now, rather than from the trainer after a download."""
    kind, colon, number = device.partition(":")
    numbered = not colon or (number.isascii() and number.isdigit() and len(number) < 4)
    if not numbered or (kind != "cuda" and device not in ("auto", "cpu")):
        hint = "; for a GPU say --device cuda" if kind.lower() in ("gpu", "nvidia", "cuda") else ""
        raise DeviceError(f"--device {device[:40]!r} is not one of auto, cpu, cuda, cuda:N{hint}")
    if kind == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise DeviceError(
                f"--device {device}: this PyTorch ({torch.__version__}) sees no CUDA GPU; "
                "install the driver and a CUDA build, or use --device cpu"
            )
        if int(number or 0) >= torch.cuda.device_count():
            raise DeviceError(
                f"--device {device}: there are {torch.cuda.device_count()} CUDA GPUs, numbered from 0"
            )
