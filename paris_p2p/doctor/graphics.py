"""GPUs: whether there is one, whether its driver and torch know each other, and what holds its memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from paris_p2p.byte_size import in_units
from paris_p2p.doctor.finding import Finding
from paris_p2p.errors import DeviceError

_PCI = Path("/sys/bus/pci/devices")
_DISPLAY = "0x03"  # the class of display controllers begins so
NVIDIA, AMD = "0x10de", "0x1002"
MAX_NAMED = 3
TORCH_LIMIT_S = 120.0  # to load torch on a slow disk, and for the driver to answer
BUSY_SHARE = 0.2  # of a GPU's memory, held by others, from which on it is worth a word
_CPU_BUILD = "pip install --force-reinstall torch, from the index of CUDA builds (https://pytorch.org)"


@dataclass(frozen=True)
class CardFacts:
    """A GPU as its driver describes it; `holders` are (pid, name, bytes or None) of processes."""

    name: str
    memory_bytes: int
    free_bytes: int
    holders: tuple[tuple[int, str, int | None], ...] = ()


@dataclass(frozen=True)
class TorchFacts:
    """What torch was built for and sees; `cuda` is the version of its CUDA, "" of a CPU build."""

    version: str
    cuda: str
    devices: int
    bf16: bool = False  # on the first GPU
    why: str = ""  # torch's own words where it cannot use a GPU


@dataclass(frozen=True)
class GraphicsFacts:
    """GPUs on the bus by maker, those that the driver knows, and torch; None: torch was not asked."""

    on_bus: tuple[str, ...] = ()  # makers' ids of display controllers
    cards: tuple[CardFacts, ...] = ()
    driver: str = ""
    why_none: str = ""
    torch: TorchFacts | None = None


def read_bus(devices: Path = _PCI) -> tuple[str, ...]:
    """Returns the makers' ids of all display controllers on the PCI bus."""
    found = []
    for device in sorted(devices.glob("*")):
        try:
            kind = (device / "class").read_text(encoding="ascii").strip()
            maker = (device / "vendor").read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            continue
        if kind.startswith(_DISPLAY):
            found.append(maker)
    return tuple(found)


def torch_apart(limit_s: float = TORCH_LIMIT_S) -> TorchFacts:
    """Returns what a process of its own reads of torch; DeviceError where it tells nothing in time."""
    command = [sys.executable, "-m", "paris_p2p.doctor.graphics"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise DeviceError(
            f"PyTorch does not say within {limit_s:g} s whether it sees a GPU; run nvidia-smi: "
            "if that hangs too, the driver does"
        ) from error
    try:
        return TorchFacts(**json.loads(done.stdout))
    except (ValueError, TypeError) as error:
        words = done.stderr.decode(errors="replace").strip()[-300:]
        raise DeviceError(f"PyTorch cannot be loaded (status {done.returncode}): {words}") from error


def read_torch() -> TorchFacts:
    """Returns what torch is and sees; loading it takes seconds, and a broken driver more."""
    import warnings

    import torch

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        is_there = torch.cuda.is_available()
        count = torch.cuda.device_count() if is_there else 0
        bf16 = bool(count) and torch.cuda.is_bf16_supported(including_emulation=False)
    why = " ".join(str(one.message) for one in told)[:300]
    return TorchFacts(torch.__version__, torch.version.cuda or "", count, bf16, why)


def judge_graphics(facts: GraphicsFacts) -> list[Finding]:
    """Returns what GPUs there are and what keeps them from training; without one the processor trains."""
    if not facts.cards:
        return [_judge_none(facts)]
    findings = [_judge_card(number, card) for number, card in enumerate(facts.cards)]
    if facts.torch is not None:
        findings.append(_judge_torch(facts, facts.torch))
    return findings


def _judge_none(facts: GraphicsFacts) -> Finding:
    wanted = "none is needed: small experts train on the processor"
    if NVIDIA in facts.on_bus:
        return Finding(
            check="gpu",
            verdict="poor",
            found=f"an NVIDIA GPU is built in, and cannot be used: {facts.why_none}",
            wanted="a driver that runs, or --device cpu on purpose",
            mend="install NVIDIA's driver from your system's packages (Debian: apt install nvidia-driver; "
            "Ubuntu: ubuntu-drivers install) and restart; in a container, start it with --gpus all",
        )
    if AMD in facts.on_bus:
        found = "an AMD GPU; this program trains on NVIDIA's or on the processor"
        return Finding(check="gpu", verdict="note", found=found, wanted=wanted)
    found = f"no NVIDIA GPU, so training is on the processor: {facts.why_none or 'none is on the bus'}"
    return Finding(check="gpu", verdict="note", found=found, wanted=wanted)


def _judge_card(number: int, card: CardFacts) -> Finding:
    held = 1 - card.free_bytes / card.memory_bytes if card.memory_bytes else 0.0
    busy = held > BUSY_SHARE
    by = [
        f"{name} (process {pid}{'' if used is None else ', ' + in_units(used)})"
        for pid, name, used in card.holders[:MAX_NAMED]
    ]
    who = f", held by {', '.join(by)}" if by and busy else ""
    first = card.holders[0][0] if card.holders else 0
    end = f"end process {first} while this peer trains, or " if first else ""
    return Finding(
        check="gpu" if number == 0 else f"gpu-{number}",
        verdict="poor" if busy else "good",
        found=f"{card.name}, {in_units(card.free_bytes)} of {in_units(card.memory_bytes)} free{who}",
        wanted="its memory for this peer, or a limit for it: --max-vram SIZE",
        mend=f"{end}start with --max-vram {max(1, int(0.9 * card.free_bytes / 1e9))}GB" if busy else "",
        numbers={"memory_bytes": float(card.memory_bytes), "free_bytes": float(card.free_bytes)},
    )


def _judge_torch(facts: GraphicsFacts, torch: TorchFacts) -> Finding:
    numbers, wanted = {"devices": float(torch.devices)}, "a CUDA build of torch that sees the GPU"
    if torch.devices:
        precision = "bfloat16" if torch.bf16 else "float32: this GPU has no bfloat16"
        found = f"torch {torch.version}, CUDA {torch.cuda}, driver {facts.driver}, {precision}"
        return Finding(check="cuda", verdict="good", found=found, wanted=wanted, numbers=numbers)
    if not torch.cuda:
        found = f"torch {torch.version} was built without CUDA, beside a GPU with driver {facts.driver}"
        return Finding(
            check="cuda", verdict="poor", found=found, wanted=wanted, mend=_CPU_BUILD, numbers=numbers
        )
    found = f"torch {torch.version} (CUDA {torch.cuda}) does not see the GPU of driver {facts.driver}"
    return Finding(
        check="cuda",
        verdict="poor",
        found=f"{found}: {torch.why}" if torch.why else found,
        wanted=wanted,
        mend=f"a driver for CUDA {torch.cuda} or newer, or a torch for an older one (https://pytorch.org); "
        "look also at CUDA_VISIBLE_DEVICES",
        numbers=numbers,
    )


def look_at_graphics(
    read_cards: Callable[[], tuple[Sequence[CardFacts], str, str]], ask_torch: Callable[[], TorchFacts] | None
) -> GraphicsFacts:
    """Returns the facts of GPUs; torch is asked only where there is one, for it takes seconds."""
    bus = read_bus()
    cards, driver, why_none = read_cards()
    asked = ask_torch() if ask_torch is not None and cards else None
    return GraphicsFacts(bus, tuple(cards), driver, why_none, asked)


def main() -> int:
    """Prints what torch is and sees, for `torch_apart`."""
    print(json.dumps(asdict(read_torch())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
