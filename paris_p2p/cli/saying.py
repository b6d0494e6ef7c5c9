"""How an owner's word goes out: compared with what the run's node knows, signed, kept in the run's folder,
handed to the node, and heard by another peer.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from paris_p2p.cli import typed
from paris_p2p.cli.console import echo, wrapped
from paris_p2p.cli.groups import FetchFlags, option
from paris_p2p.cli.owner_key import open_owner_key
from paris_p2p.cli.run_home import ask_node, asked_by, certificates_of, known_state
from paris_p2p.cli.state_words import state_lines
from paris_p2p.errors import RecordError, UnreachableError, UsageError

if TYPE_CHECKING:
    from paris_p2p.handed_word import HandedWord, Holders, SlotPlaces
    from paris_p2p.identity import Identity
    from paris_p2p.owner_records import AnyChange
    from paris_p2p.rules.chain import Notice
    from paris_p2p.rules.run_state import RunState

PATIENCE_S = 60.0  # for another peer to have the notice
_LOOK_EVERY_S = 1.0
TELLING = "telling it"


@dataclass(frozen=True)
class SayFlags:
    """Holds the options of every notice."""

    sign_only: Annotated[
        Path | None,
        option(
            "Write the signed notice to this file, for --send on the machine of the run's node.",
            "FILE",
            parser=typed.to_write("the signed notice"),
        ),
    ] = None
    no_wait: Annotated[bool, option("Do not wait until another peer has it.", None, "--no-wait")] = False
    dry_run: Annotated[
        bool, option("Show what the notice would say and change; sign nothing.", None, "--dry-run")
    ] = False


class Saying:
    """Is one call: `word` is what the run's node knows, `state` what the run is before it."""

    def __init__(self, folder: Path, flags: SayFlags):
        from paris_p2p.preparation.owner_words import OwnersFolder
        from paris_p2p.preparation.what_to_say import names_in

        self.folder, self.flags, self.home = folder, flags, folder / "node"
        self.owners = OwnersFolder(folder)
        self.word, self.is_running = ask_node(self.home, self.owners.known)
        if self.word.fork:
            raise UsageError(f"nothing can be said any more: {self.word.fork}")
        self.owners.take(self.word.notices, "the run's node")
        self.owners.check_whole()
        self.certificates = certificates_of(self.word)
        self.state = self.owners.known.state(time.time(), self.certificates)
        self.names = {**self.word.names, **names_in(self.state)}

    def peer(self, word: str) -> str:
        """Returns the peer that a word means; UsageError."""
        from paris_p2p.preparation.what_to_say import find_peer, machines_in

        known = [*self.state.admissions, self.state.signed.owner_node, *self.word.peers]
        return find_peer(word, [peer for peer in known if peer], self.names, machines_in(self.state))

    def places(self, slot: str, invite: str) -> SlotPlaces:
        """Returns a slot's attested cards as the run's node knows them, or the swarm by an invite.
        UsageError.
        """
        from paris_p2p.handed_word import SlotPlaces

        if slot not in self.state.slots_ever:
            raise UsageError(f"there is no {slot}; the run has {', '.join(self.state.slots_ever)}")
        slots = asked_by(invite, FetchFlags()).slots if invite else self.word.slots
        if not slots:
            raise UsageError(
                "the run's node, which knows where the card stands, is not running; start it with "
                f"`paris-run publish {self.folder}`, or give an --invite, by which other peers are asked"
            )
        return next((one for one in slots if one.slot == slot), SlotPlaces(slot=slot, floor=1))

    @cached_property
    def owner(self) -> Identity:
        """Returns the key that signs; a person is asked for its passphrase once."""
        return open_owner_key(self.folder)

    def with_key(self) -> Saying:
        """Returns itself once the key is open: what takes long does not end at a wrong passphrase."""
        if not self.flags.dry_run:
            self.owner.sign(b"")
        return self

    def say(self, changes: Sequence[AnyChange]) -> None:
        """Signs one notice for each change, tells them, and shows what the run is then."""
        from paris_p2p.preparation.what_to_say import check_sense

        for change in changes:
            check_sense(change, self.state)
        now_s = time.time()
        if self.flags.dry_run:
            would_be = self.owners.would_be(changes, now_s)
            self._show(would_be.state(now_s, self.certificates).notices[-len(changes) :], "would say")
            self._show_state(would_be.state(now_s, self.certificates))
            return
        signed = self.owners.sign(self.owner, changes, now_s)
        self.owners.keep()
        self._show(signed, "said")
        if self.flags.sign_only is not None:
            self._write(self.flags.sign_only)
            return
        deliver(
            self.folder,
            self.owners.handed(len(self.word.notices)),
            self.owners.chain.number,
            wait=not self.flags.no_wait,
        )
        self._show_state(self.owners.known.state(time.time(), self.certificates))

    def revoke(self, word: str, since_s: float | None, *, with_admissions: bool) -> None:
        """Ends a peer's part, and says who stays that it let in."""
        from paris_p2p.notice_words import peer_words
        from paris_p2p.preparation.what_to_say import admitted_by, revocation

        peer = self.peer(word)
        changes = revocation(
            peer,
            self.state,
            self.certificates,
            since_s=since_s,
            with_admissions=with_admissions,
            next_key=self.owners.next_key().hash if self.state.signed.private else "",
        )
        let_in = [one.record.peer for one in admitted_by(peer, self.state, self.certificates)]
        if let_in:
            fate = "are revoked with it" if with_admissions else "stay (--with-admissions revokes them, too)"
            listed = ", ".join(peer_words(one, self.names) for one in let_in)
            echo(wrapped(f"it let in {len(let_in)} peers, which {fate}: {listed}"))
        self.say(changes)
        if self.state.signed.private and not self.flags.dry_run:
            echo(wrapped(f"copy {self.folder / 'keys'} to its safe place again: it holds the new key, too"))
        echo(wrapped("what it fetched before stays with it; what is made from now on it cannot have"))

    def _show(self, notices: Sequence[Notice], verb: str) -> None:
        from paris_p2p.notice_words import notice_words

        for notice in notices:
            echo(wrapped(f"{verb}: {notice_words(notice, self.names)}"))

    def _show_state(self, state: RunState) -> None:
        echo("\n".join(state_lines(state, self.names, chain=False)))

    def _write(self, file: Path) -> None:
        write_handed(file, self.owners.handed())
        echo(wrapped(f"wrote {file}; deliver it with: paris-run say FOLDER --send {file.name}"))


def kept_word(folder: Path) -> HandedWord | None:
    """Returns the notices in a run's folder for its node, which starts; None where there are none, or where
    they are damaged, which is said: the node has its own.
    """
    from paris_p2p.preparation.owner_words import NOTICES, OwnersFolder

    if not (folder / NOTICES).is_dir():
        return None
    try:
        return OwnersFolder(folder).handed()
    except (RecordError, UsageError) as error:
        echo(wrapped(f"note: the notices in {folder / NOTICES} are not told: {error}"))
        return None


def send(folder: Path, file: Path) -> None:
    """Delivers what was signed on another machine."""
    from paris_p2p.handed_word import read_handed
    from paris_p2p.notice_words import notice_words
    from paris_p2p.preparation.owner_words import OwnersFolder

    handed = read_handed(file)
    owners = OwnersFolder(folder)
    word, _ = ask_node(folder / "node", owners.known)
    owners.take(word.notices, "the run's node")
    before = owners.chain.number
    owners.take_handed(handed)
    new = owners.chain.notices[before:]
    for notice in new:
        echo(wrapped(f"sent: {notice_words(notice)}"))
    if not new:
        echo(f"nothing in {file} is new: {folder} has notices 1 to {before}")
    deliver(folder, owners.handed(len(word.notices)), owners.chain.number)
    state, names, _ = known_state(folder)
    echo("\n".join(state_lines(state, names, chain=False)))


def write_handed(file: Path, handed: HandedWord) -> None:
    """Writes notices for another machine, for this user's eyes only."""
    from paris_p2p.disk import explained, write_atomic

    with explained(file):
        write_atomic(file, handed.model_dump_json(), mode=0o600)


def deliver(folder: Path, handed: HandedWord, number: int, *, wait: bool = True) -> None:
    """Hands notices to the run's node, and waits until another peer has the newest."""
    from paris_p2p.node.control_client import ask_control

    home = folder / "node"
    try:
        ask_control(home, "tell", handed.model_dump_json().encode())
    except UnreachableError as error:
        echo(
            wrapped(
                f"kept in {folder / 'notices'}, and not told yet: the run's node is not running ({error}). "
                f"Start it with: paris-run publish {folder}"
            )
        )
        return
    echo(wrapped(_who_has(home, number) if wait else "handed to the run's node, which tells the others"))


def _who_has(home: Path, number: int) -> str:
    """Waits until another peer has a notice; returns who, or why nobody."""
    began_s = time.monotonic()
    while True:
        holders = _holders(home, number)
        if holders.have:
            named = ", ".join(f"…{peer[-8:]}" for peer in holders.have[:4])
            return f"told: {len(holders.have)} of {holders.connected} connected peers have it ({named})"
        if not holders.connected:
            return "no other peer is connected now; the run's node has it, and tells it as they come"
        if time.monotonic() - began_s > PATIENCE_S:
            return (
                f"none of {holders.connected} connected peers has it after {PATIENCE_S:.0f} s; the run's "
                f"node goes on {TELLING}"
            )
        time.sleep(_LOOK_EVERY_S)


def _holders(home: Path, number: int) -> Holders:
    from paris_p2p.handed_word import Asked, Holders, parse_passed
    from paris_p2p.node.control_client import ask_control

    answer = ask_control(home, "holders", Asked(number=number).model_dump_json().encode())
    return parse_passed(Holders, answer, "the answer of the run's node")
