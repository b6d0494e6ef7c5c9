"""A run with the keys and notices that are known of it: what is read from a folder or a data directory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paris_p2p.envelope import Envelope, open_envelope, seal
from paris_p2p.errors import UsageError
from paris_p2p.identity import Identity
from paris_p2p.keyring import KEYS_FILE, Keyring, load_keyring
from paris_p2p.owner_records import NoticeRecord, Revoke
from paris_p2p.rules.chain import Chain, Notice
from paris_p2p.rules.run_state import Certificate, RunState, run_state
from paris_p2p.run_file import RUN_FILE, read_run
from paris_p2p.spec import RunSpec
from paris_p2p.veil import open_sealed, seal_record


@dataclass(frozen=True)
class KnownRun:
    """Is a run with the keys and notices that are known of it."""

    run: Envelope[RunSpec]
    ring: Keyring
    chain: Chain

    @property
    def key_hashes(self) -> list[str]:
        """Returns what the owner names the keys 1, 2, … by."""
        spec, changes = self.run.record, [notice.record.change for notice in self.chain.notices]
        later = [change.next_key for change in changes if isinstance(change, Revoke) and change.next_key]
        return [spec.key_hash, *later] if spec.private else []

    def open(self, data: bytes) -> Notice:
        """Verifies a notice, and opens it in a private run; RecordError."""
        return self.open_kind(data, ("notice",))

    def open_kind(self, data: bytes, kinds: tuple[str, ...]) -> Envelope[Any]:
        """Verifies a record of the run, and opens it in a private one; RecordError.

        Certificates are handed over in person, and so never sealed.
        """
        if self.run.record.private and kinds != ("certificate",):
            return open_sealed(data, self.ring, self.run.id, kinds)
        return open_envelope(data, run=self.run.id, kinds=kinds)

    def seal(self, owner: Identity, record: NoticeRecord) -> Notice:
        """Signs a notice; in a private run it is sealed under the key that is in force before it."""
        if not self.run.record.private:
            return seal(owner, record)
        return seal_record(owner, record, self.ring.as_of(len(self.key_hashes)), seq=record.seq)

    def state(self, now_s: float, certificates: Iterable[Certificate] = ()) -> RunState:
        return run_state(self.run.id, self.run.record, self.chain.notices, now_s, certificates)


def kept_run(data_dir: Path) -> KnownRun:
    """Returns the run that a peer's data directory is of; UsageError where it is of none or of several."""
    found = [path.parent for path in sorted((data_dir / "runs").glob(f"*/{RUN_FILE}"))]
    if len(found) != 1:
        raise UsageError(
            f"{data_dir} is of {len(found)} runs, where one is wanted; name the folder of a run, or the data "
            "directory of a peer that takes part in one"
        )
    run = read_run(found[0] / RUN_FILE, found[0].name, mend="join the run again")
    return KnownRun(run, load_keyring(found[0]), Chain(run.id, run.record.owner))


def owners_ring(folder: Path, run: Envelope[RunSpec]) -> Keyring:
    """Returns a private run's keys: those beside the owner's key, or the node's where it has more."""
    if not run.record.private:
        return Keyring()
    rings = [load_keyring(place) for place in (folder, folder / "node" / "runs" / run.id)]
    ring = max(rings, key=lambda one: len(one.keys))
    if not ring.keys:
        raise UsageError(
            f"the run is private, and its keys are neither in {folder / KEYS_FILE} nor in "
            f"{folder / 'node' / 'runs' / run.id / KEYS_FILE}; restore the file from a backup"
        )
    return ring
