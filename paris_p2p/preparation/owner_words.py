"""An owner's notices in the run's folder: read, continued, signed and kept, before anybody hears of them.

    run.spec       what the owner signed first
    owner.key      the key that signs
    keys           a private run's keys (keyring.py), where they are not the node's alone
    notices/00001  one signed notice a file

A number is used once: two notices of one number would stop every peer of the run. So the folder is compared
with what the run's node knows before anything is signed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from paris_p2p.disk import explained, make_directory, write_atomic
from paris_p2p.envelope import Envelope
from paris_p2p.errors import ClockError, MissingKeyError, RecordError, UsageError
from paris_p2p.handed_word import HandedWord
from paris_p2p.identity import Identity, load_owner_key, load_peer_key
from paris_p2p.key_box import KeyGift, open_gift, seal_gift, with_gift
from paris_p2p.keyring import RunKey, save_keyring
from paris_p2p.kinds import DEFAULT_MAX_ENVELOPE_BYTES, SIGNED_LIFETIME_S
from paris_p2p.notice_words import date_words
from paris_p2p.owner_records import MAX_NOTICES, AnyChange, NoticeRecord
from paris_p2p.preparation.create import KEY_FILE, load_run
from paris_p2p.preparation.known_run import KnownRun, owners_ring
from paris_p2p.rules.chain import Chain, Notice
from paris_p2p.rules.heard import CLOCK_SLACK_S

NOTICES = "notices"  # in the run's folder
_ENCRYPTED = b"ENCRYPTED PRIVATE KEY"


class OwnersFolder:
    """Holds what an owner's folder knows; `known` grows with each notice that is taken or signed."""

    def __init__(self, folder: Path):
        self.folder = folder
        run = load_run(folder)
        self.known = KnownRun(run, owners_ring(folder, run), Chain(run.id, run.record.owner))
        self._kept = 0  # notices that are in the folder
        self._has_new_keys = False
        self._read()

    @property
    def chain(self) -> Chain:
        return self.known.chain

    def take(self, told: Iterable[bytes], who: str) -> None:
        """Takes the notices that somebody else knows, and keeps those that the folder lacks.

        UsageError where they contradict the folder's: nothing may be signed then.
        """
        chain = self.chain
        for data in told:
            chain = chain.add(self.known.open(data))
            self._know(chain)
        if chain.fork is not None:
            one, other = chain.fork
            raise UsageError(
                f"{self.folder / NOTICES} and {who} have different notices {one.record.seq}: "
                f"{one.id[:16]}… and {other.id[:16]}…; nothing was signed, for the next notice would stop "
                f"the run; move away from {self.folder / NOTICES} what {who} does not have"
            )
        self.keep()

    def check_whole(self) -> None:
        """Raises RecordError where a notice is missing before one that is here."""
        if missing := self.chain.missing_below():
            raise RecordError(
                f"notice {missing} is missing in {self.folder / NOTICES}; start `paris-run publish "
                f"{self.folder}`, whose node has it, and try again"
            )

    def next_key(self) -> RunKey:
        """Returns the key that follows a private run's newest; it is kept with the notice that names it."""
        known, count = self.known, len(self.known.key_hashes)
        if len(known.ring.keys) <= count:
            ring = known.ring.with_key(RunKey.generate().secret)
            self.known, self._has_new_keys = KnownRun(known.run, ring, known.chain), True
        return self.known.ring.keys[count]

    def sign(self, owner: Identity, changes: Sequence[AnyChange], now_s: float) -> list[Notice]:
        """Signs one notice for each change, in order; `keep` writes them.

        UsageError when the key is not the owner's, ClockError when this machine's clock is behind the newest
        notice.
        """
        run, signed = self.known.run, []
        if owner.peer_id != run.record.owner:
            raise UsageError(
                f"{self.folder / KEY_FILE} is the key of {owner.peer_id}, and this run's owner is "
                f"{run.record.owner}; a notice by another key is worth nothing"
            )
        if self.chain.number + len(changes) > MAX_NOTICES:
            raise UsageError(f"a run has at most {MAX_NOTICES} notices; make a new run")
        for change in changes:
            notice = self.known.seal(owner, _record(self.chain, change, now_s))
            self._know(self.chain.add(notice))
            signed.append(notice)
        return signed

    def would_be(self, changes: Sequence[AnyChange], now_s: float) -> KnownRun:
        """Returns the run as these changes would make it, signed by nobody."""
        known = self.known
        chain = known.chain
        for change in changes:
            record = _record(chain, change, now_s)
            unsigned = Envelope(record=record, signer=known.run.record.owner, payload=b"", data=b"")
            chain = Chain(chain.run, chain.owner, (*chain.notices, unsigned))
        return KnownRun(known.run, known.ring, chain)

    def keep(self) -> None:
        """Writes what is not in the folder yet: keys first, since notices are sealed under them."""
        if self._has_new_keys:
            save_keyring(self.folder, self.known.ring)
            self._has_new_keys = False
        place = self.folder / NOTICES
        for notice in self.chain.notices[self._kept :]:
            path = place / f"{notice.record.seq:05}"
            with explained(path):
                make_directory(place)
                _write_new(path, notice.data)
            self._kept = notice.record.seq

    def handed(self, known_number: int = 0) -> HandedWord:
        """Returns the notices after `known_number` for the run's node, with the keys sealed to it."""
        known, spec = self.known, self.known.run.record
        box = b""
        if spec.private:
            keys = tuple(key.secret for key in known.ring.keys[: len(known.key_hashes)])
            box = seal_gift(spec.owner_node, KeyGift(first=1, keys=keys))
        notices = tuple(notice.data for notice in known.chain.notices[known_number:])
        return HandedWord(run=known.run.id, notices=notices, keys=box)

    def take_handed(self, handed: HandedWord) -> None:
        """Takes what was signed on another machine: its notices, and its keys, which this machine's node can
        open. UsageError, RecordError.
        """
        run = self.known.run
        if handed.run != run.id:
            raise UsageError(
                f"those notices are of run {handed.run[:16]}…, and {self.folder} holds run {run.id[:16]}…"
            )
        if handed.keys:
            self._take_keys(handed)
        self.take(handed.notices, "the file")
        self.check_whole()

    def _take_keys(self, handed: HandedWord) -> None:
        """Takes the keys; which of them the owner named is known once the notices are."""
        gift = open_gift(load_peer_key(self.folder / "node" / "identity.key"), handed.keys)
        for data in handed.notices:
            try:
                self._know(self.chain.add(self.known.open(data)))
            except MissingKeyError:
                break
            known = self.known
            ring = with_gift(known.ring, gift, known.key_hashes, "")
            self._has_new_keys = self._has_new_keys or ring != known.ring
            self.known = KnownRun(known.run, ring, known.chain)

    def _read(self) -> None:
        place = self.folder / NOTICES
        for path in sorted(place.glob("[0-9]" * 5)) if place.is_dir() else ():
            try:
                with path.open("rb") as file:
                    notice = self.known.open(file.read(DEFAULT_MAX_ENVELOPE_BYTES + 1))
                if path.name != f"{notice.record.seq:05}":
                    raise RecordError(f"it is notice {notice.record.seq}")
                self._know(self.chain.add(notice))
            except RecordError as error:
                raise RecordError(
                    f"{path} is damaged: {error}; delete it and start `paris-run publish {self.folder}`, "
                    "whose node has it too"
                ) from error
            except OSError as error:
                raise UsageError(f"cannot read {path}: {error.strerror}; mend its permissions") from error
        if self.chain.fork is not None:
            raise UsageError(f"the notices in {place} contradict one another; restore it from a backup")
        self._kept = self.chain.number

    def _know(self, chain: Chain) -> None:
        self.known = KnownRun(self.known.run, self.known.ring, chain)


def is_locked(path: Path) -> bool:
    """Tells whether an owner's key asks for a passphrase."""
    try:
        return _ENCRYPTED in path.read_bytes()[:200]
    except OSError:
        return False  # reading the key itself says what is wrong


def owner_key(folder: Path, passphrase: str | None) -> Identity:
    """Returns the key that signs; UsageError where it is not here or the passphrase is wrong."""
    path = folder / KEY_FILE
    if not path.exists():
        raise UsageError(
            f"{path} is not here; where it is, `paris-run say FOLDER … --sign-only FILE` writes a file that "
            f"`paris-run say {folder} --send FILE` delivers from here"
        )
    return load_owner_key(path, passphrase)


def _record(chain: Chain, change: AnyChange, now_s: float) -> NoticeRecord:
    """Returns the notice that follows a chain's newest."""
    date_s = _next_date_s(chain, now_s)
    return NoticeRecord(
        run=chain.run,
        slot="",
        seq=chain.number + 1,
        issued_at=date_s,
        expires_at=date_s + SIGNED_LIFETIME_S["notice"],
        previous=chain.head,
        change=change,
    )


def _next_date_s(chain: Chain, now_s: float) -> float:
    """Returns the date of the next notice, which is not before that of the newest; ClockError."""
    newest_s = max((notice.record.issued_at for notice in chain.notices), default=0.0)
    if now_s < newest_s - CLOCK_SLACK_S:
        raise ClockError(
            f"this machine's clock says {date_words(now_s)}, and notice {chain.number} was signed at "
            f"{date_words(newest_s)}, {newest_s - now_s:.0f} s later; set the clock and try again"
        )
    return max(now_s, newest_s)


def _write_new(path: Path, data: bytes) -> None:
    try:
        write_atomic(path, data, overwrite=False)
    except FileExistsError as error:
        if path.read_bytes() != data:
            raise UsageError(
                f"{path} was written meanwhile by another `paris-run say`; nothing of this one is told, "
                "try again"
            ) from error
