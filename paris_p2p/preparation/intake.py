"""What the owner gives a new run, on its way into the owner's store: sealed where the run asks for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from paris_p2p.keyring import GateKey, Keyring, RunKey
from paris_p2p.records import BlobRef
from paris_p2p.store.blobs import BlobStore
from paris_p2p.store.sealed_blobs import add_sealed


@dataclass(frozen=True)
class Intake:
    """Takes files in; `key` is a private run's first, `gate` that of the gate's clips."""

    store: BlobStore
    key: RunKey | None
    gate: GateKey | None

    @classmethod
    def of_new_run(cls, store: BlobStore, *, private: bool, seal_gate: bool) -> Intake:
        """Returns one with new keys, which nobody else has."""
        return cls(store, RunKey.generate() if private else None, GateKey.generate() if seal_gate else None)

    @property
    def ring(self) -> Keyring:
        return Keyring(() if self.key is None else (self.key,), self.gate)

    def add(self, path: Path, *, move: bool = False) -> BlobRef:
        """Takes in what every member may read."""
        if self.key is None:
            return self.store.add_file(path, move=move)
        return add_sealed(self.store, path, self.key, move=move)

    def add_gate(self, path: Path) -> BlobRef:
        """Takes in clips of the gate, which those read who may attest."""
        return self.add(path) if self.gate is None else add_sealed(self.store, path, self.gate)
