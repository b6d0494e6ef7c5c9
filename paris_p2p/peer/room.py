"""Says which slots this machine is up to before one is claimed, and remembers where memory ran out all the
same.
"""

from __future__ import annotations

from collections.abc import Callable

from paris_p2p.peer.machine import Machine, this_machine
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.spec import RunSpec
from paris_p2p.training.counting import counts_of
from paris_p2p.training.needs import LOADED_BYTES, parameter_count, trainer_bytes

MEMORY_SHARE = 0.9  # of --max-memory: checkpoint and stop here, before the kernel kills at the limit
# Node and p2pd: 163 MiB where nothing is trained; 466 with trained slots, 146 of them PyTorch's, which a node
# does not load any more (docs/benchmarks.md, "What does a node take that trains nothing?").
NODE_BYTES = 320 << 20
GATE_BYTES_PER_PARAMETER = 12  # of a card that is checked while one trains: two networks, and reading them


class Room:
    """The memory of one peer in one run."""

    def __init__(self, settings: PeerSettings, spec: RunSpec, machine: Callable[[], Machine] = this_machine):
        self.spec, self.micro_batch_clips = spec, settings.micro_batch_clips
        self._settings, self._read_machine = settings, machine
        self._machine: Machine | None = None
        self._reasons: dict[str, str] = {}  # by slot: why it does not fit; empty when it does

    def change(self, settings: PeerSettings) -> None:
        """Takes other limits, by which all slots are looked at anew."""
        self._settings = settings
        self._reasons.clear()

    def why_not(self, slot: str) -> str:
        """Returns why this machine cannot train the slot, or nothing."""
        if slot not in self._reasons:
            self._reasons[slot] = self._look(slot)
        return self._reasons[slot]

    def trainer_bytes(self) -> int:
        """Returns the main memory for the trainer alone, beside node and gate: 0 for no limit, at least 1
        with one.
        """
        limit = self._settings.max_memory_bytes
        return max(1, int(MEMORY_SHARE * limit) - self._beside()) if limit else 0

    def __str__(self) -> str:
        """Says what this peer allows, for the person who is asked."""
        allowed = [
            f"{_gb(count)} of {what}"
            for count, what in (
                (self._settings.max_memory_bytes, "memory"),
                (self._settings.max_vram_bytes, "GPU memory"),
                (self._settings.max_disk_bytes, "disk"),
            )
            if count
        ]
        return f"{', '.join(allowed) or 'no limits'}, on {self._here()}"

    def trainer_settings(self) -> PeerSettings:
        """Returns the settings of the trainer alone: its share of memory, and as many clips at once as
        were found to fit.
        """
        return self._settings.model_copy(
            update={"max_memory_bytes": self.trainer_bytes(), "micro_batch_clips": self.micro_batch_clips}
        )

    def ran_out(self, slot: str, clips_at_once: int, words: str) -> str:
        """Notes that training the slot took more than allowed; returns what is done about it."""
        if clips_at_once > 1:
            self.micro_batch_clips = clips_at_once // 2
            return f"next time with {self.micro_batch_clips} clips at once"
        self._reasons[slot] = f"{slot} did not fit: {words}"
        return f"{slot} is left to others from now on"

    def _look(self, slot: str) -> str:
        gpu = self._gpu_bytes()
        main, vram = trainer_bytes(
            self.spec, slot, gpu=gpu is not None, bf16=gpu is not None or self._cpu_bf16(slot)
        )
        allowed = self.trainer_bytes() or int(MEMORY_SHARE * self._here().memory_bytes) - self._beside()
        if gpu is not None and vram > gpu:
            return (
                f"{slot} needs {_gb(vram)} of GPU memory for one clip at a time, "
                f"{_gb(gpu)} are allowed (--max-vram)"
            )
        if main > allowed:
            whole = "--max-memory" if self._settings.max_memory_bytes else "this machine's memory"
            needed = int((main + self._beside()) / MEMORY_SHARE)
            have = self._settings.max_memory_bytes or self._here().memory_bytes
            return (
                f"{slot} needs {_gb(needed)} of memory with node and gate, {_gb(have)} are allowed ({whole})"
            )
        return ""

    def _gpu_bytes(self) -> int | None:
        """Returns what training may take of the GPU; None on the CPU, or where the GPU is not known."""
        if self._settings.device == "cpu":
            return None
        gpu = self._here().gpu(self._settings.device)
        if gpu is None:
            return None
        return min(gpu.memory_bytes, self._settings.max_vram_bytes or gpu.memory_bytes)

    def _beside(self) -> int:
        largest = max(parameter_count(self.spec, slot) for slot in (self.spec.slots[0], self.spec.slots[-1]))
        return NODE_BYTES + LOADED_BYTES + GATE_BYTES_PER_PARAMETER * largest

    def _cpu_bf16(self, slot: str) -> bool:
        return counts_of(self.spec, slot).cpu_bf16

    def _here(self) -> Machine:
        if self._machine is None:
            self._machine = self._read_machine()
        return self._machine


def _gb(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"
