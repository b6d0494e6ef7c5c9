"""What this peer allows and where it lives: where all options end (option_sources.py)."""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ByteSize, ConfigDict, Field

from paris_p2p.byte_size import Bytes
from paris_p2p.care_words import BudgetText, Degrees, HoursWords, IdleSpan, Niceness, Watts, ZoneName


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


def metrics_address(text: str) -> str:
    """Returns where metrics are served, as `address:port`, of `[HOST:]PORT`; ValueError when it is none."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") or "127.0.0.1"
    if host == "localhost":
        host = "127.0.0.1"
    if text == "":
        return ""
    if not (port.isascii() and port.isdecimal() and int(port) < 65536):
        raise ValueError("is no [HOST:]PORT, such as 9464 or 127.0.0.1:9464")
    address = own_address(host)
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def webhook(text: str) -> str:
    """Returns an http or https URL, or @FILE with one; ValueError, which does not repeat it, for others."""
    if text.startswith("@") and len(text) > 1:
        return text
    try:
        parts = urlsplit(text)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_url = False
    if not is_url or not text.isprintable() or " " in text:
        raise ValueError("is no URL that begins with https:// or http://, nor @FILE with one")
    return text


MetricsAddress = Annotated[str, AfterValidator(metrics_address)]
Webhook = Annotated[str, AfterValidator(webhook)]


class PeerSettings(BaseModel):
    """Holds what this peer allows and where it lives; all options end here (option_sources.py)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data_dir: Path
    port: Annotated[int, Field(ge=0, le=65535)] = 0  # 0: any free one
    host: Annotated[str, AfterValidator(own_address)] = "0.0.0.0"
    announce: tuple[str, ...] = ()
    relays: tuple[str, ...] = ()
    lan: bool = False  # peers of the same run are looked for in the local network
    lan_only: bool = False  # nobody is dialled, nor listened to, outside private addresses
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
    metrics: MetricsAddress = ""  # where they are served; empty: nowhere
    notify: tuple[Webhook, ...] = ()  # who hears of trouble
    notify_names: bool = False  # names of private runs are told, too
    # between two sets of preview clips, at least; 0: none are made
    preview_minutes: Annotated[float, Field(ge=0, le=100_000)] = 0.0
    dashboard: bool = False  # the link to the page is printed at the start
    # when and how hard this machine may work (docs/volunteers.md, "When it may work")
    hours: HoursWords = ()  # none: always
    time_zone: ZoneName = ""  # of the hours and budgets; empty: this machine's
    only_idle_s: IdleSpan = 0.0  # without anybody at the machine, before it may work; 0: also in use
    on_battery: bool = True
    max_gpu_temp_c: Degrees = 0.0  # 0: no limit of ours
    max_gpu_power_w: Watts = 0.0
    nice: Niceness = 0  # of trainer and gate
    upload_budget: BudgetText = ""  # like 100GB/month; empty: none
    download_budget: BudgetText = ""
