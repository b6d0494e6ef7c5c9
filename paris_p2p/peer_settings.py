"""What this peer allows and where it lives: where all options end (option_sources.py)."""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ByteSize, ConfigDict, Field

from paris_p2p.byte_size import Bytes


def device_name(text: str) -> str:
    """Returns the name of a device as torch takes it, or `auto`; ValueError says which names there are."""
    if re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", text) is None:
        gpu = text.partition(":")[0].lower() in ("gpu", "nvidia", "cuda")
        hint = "; for a GPU say --device cuda" if gpu else ""
        raise ValueError(f"is not one of auto, cpu, cuda, cuda:N{hint}")
    return text


def own_address(text: str) -> str:
    """Returns an address to listen on; ValueError when it is none."""
    try:
        ip_address(text)
    except ValueError as error:
        raise ValueError("is no address of this machine, nor 0.0.0.0 or :: for all of them") from error
    return text


class PeerSettings(BaseModel):
    """Holds what this peer allows and where it lives; all options end here (option_sources.py)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data_dir: Path
    port: Annotated[int, Field(ge=0, le=65535)] = 0  # 0: any free one
    host: Annotated[str, AfterValidator(own_address)] = "0.0.0.0"
    announce: tuple[str, ...] = ()
    relays: tuple[str, ...] = ()
    max_disk_bytes: Bytes = ByteSize(0)  # 0: no cap; unset: half of the disk (node/host.py)
    upload_limit_bytes_per_s: Bytes = ByteSize(0)  # 0: no limit
    download_limit_bytes_per_s: Bytes = ByteSize(0)
    device: Annotated[str, AfterValidator(device_name)] = "auto"
    threads: Annotated[int, Field(ge=0, le=1024)] = 0  # 0: torch's own choice
    max_memory_bytes: Bytes = ByteSize(0)  # main memory of all our processes; 0: no limit of ours
    max_vram_bytes: Bytes = ByteSize(0)  # of the GPU that trains; 0: all of it
    micro_batch_clips: Annotated[int, Field(ge=0)] = 0  # 0: chosen to fit the memory
    compile: bool = True  # torch.compile on a GPU
    slot: str = ""  # claim only this one
