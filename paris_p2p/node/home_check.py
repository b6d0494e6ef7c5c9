"""Checks a whole data directory: blobs, sealed ones also by opening them, ledgers, and RunSpecs. It reads and
changes nothing, so a peer may run there meanwhile.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from paris_p2p.disk import FORGOTTEN_S
from paris_p2p.doctor.identities import has_node
from paris_p2p.errors import RecordError, SealError, StoreError, VersionError
from paris_p2p.keyring import Keyring, load_keyring
from paris_p2p.node.joining import GENERATOR_DIR
from paris_p2p.node.ledger_check import LedgerFinding, check_ledger, opener_of
from paris_p2p.progress import Progress
from paris_p2p.run_file import RUN_FILE, read_run
from paris_p2p.store.blob_check import BAD, LEFT_OVER, BlobFinding, blob_bytes, check_blobs
from paris_p2p.store.sealing import BlobKey, hint_of, open_blob

_RUN_WORDS = "it is fetched again by its id"


@dataclass
class HomeReport:
    """Says what a data directory holds and what is wrong there."""

    home: Path
    states: Counter[str] = field(default_factory=Counter)  # of blobs
    hashed_bytes: int = 0
    sealed: int = 0  # blobs
    opened: int = 0  # of them, with keys that are here
    records: int = 0  # values in ledgers
    runs: int = 0
    blobs: list[BlobFinding] = field(default_factory=list)  # that are not right
    left_over: list[BlobFinding] = field(default_factory=list)
    foreign: list[BlobFinding] = field(default_factory=list)  # somebody's, and none of a store's
    unsealed: list[BlobFinding] = field(default_factory=list)  # right bytes that do not open as they must
    ledger: list[LedgerFinding] = field(default_factory=list)
    specs: dict[str, str] = field(default_factory=dict)  # damaged RunSpecs and keys: path -> words

    @property
    def is_whole(self) -> bool:
        """Tells whether nothing is damaged; what killed processes left behind is no damage."""
        return not (self.blobs or self.unsealed or self.ledger or self.specs)


def homes_in(data_dir: Path) -> list[Path]:
    """Returns the directories with a store of their own: a peer's, the generator's beside it, and that of the
    owner's node in a run's folder.
    """
    places = (data_dir, data_dir / GENERATOR_DIR, data_dir / "node")
    return [home for home in places if (home / "blobs").is_dir()]


def check_home(
    home: Path, progress: Progress = lambda *_: None, only: Collection[str] | None = None
) -> HomeReport:
    """Returns what one data directory is worth, of blobs `only` these; `progress` counts hashed bytes."""
    report = HomeReport(home)
    rings = [_check_run(folder, report) for folder in _run_folders(home)]
    keys: dict[bytes, BlobKey] = {key.hint: key for ring in rings for key in ring.keys}
    keys |= {ring.gate.hint: ring.gate for ring in rings if ring.gate is not None}
    root = home / "blobs"
    total_bytes = blob_bytes(root)

    def hashed(count: int) -> None:
        report.hashed_bytes += count
        progress(f"checking {home.name or home}, bytes", min(report.hashed_bytes, total_bytes), total_bytes)

    is_alive = has_node(home)
    for found in check_blobs(root, hashed, only):
        if is_alive and _is_written_now(found):
            continue
        report.states[found.state] += 1
        if found.state in BAD:
            report.blobs.append(found)
        elif found.state in LEFT_OVER:
            report.left_over.append(found)
        elif found.state == "foreign":
            report.foreign.append(found)
        elif found.state == "right":
            _check_seal(found, keys, report)
    return report


def _is_written_now(found: BlobFinding) -> bool:
    """Tells whether the node that runs here may be at work on a temporary file."""
    try:
        return found.state == "temporary" and time.time() - found.path.lstat().st_ctime < FORGOTTEN_S
    except FileNotFoundError:  # it is done with it
        return True


def _run_folders(home: Path) -> Iterator[Path]:
    runs = home / "runs"
    yield from (path for path in sorted(runs.iterdir()) if path.is_dir()) if runs.is_dir() else ()


def _check_run(folder: Path, report: HomeReport) -> Keyring:
    """Checks a run's RunSpec and ledger, and returns its keys."""
    report.runs += 1
    ring, private = Keyring(), False
    try:
        ring = load_keyring(folder)
        if (folder / RUN_FILE).exists():
            private = read_run(folder / RUN_FILE, folder.name, mend=_RUN_WORDS).record.private
    except VersionError:
        return ring  # a newer version wrote it
    except (RecordError, StoreError) as error:
        report.specs[str(folder / RUN_FILE)] = str(error)
        private = bool(ring.keys)
    for found in check_ledger(folder / "ledger", opener_of(folder.name, ring, private=private)):
        report.records += 1
        if found is not None:
            report.ledger.append(found)
    return ring


def _check_seal(found: BlobFinding, keys: dict[bytes, BlobKey], report: HomeReport) -> None:
    """Opens a sealed blob whose key is here, to nowhere: who sealed it may have done it wrongly."""
    try:
        hint = hint_of(found.path)
        if hint is None:
            return
        report.sealed += 1
        if hint in keys:
            open_blob(found.path, keys[hint], _Nowhere())
            report.opened += 1
    except FileNotFoundError:
        return
    except SealError as error:
        report.unsealed.append(BlobFinding("damaged", found.path, found.size_bytes, str(error)))


class _Nowhere:
    """Takes what is written, and keeps nothing."""

    def write(self, piece: bytes, /) -> int:
        return len(piece)
