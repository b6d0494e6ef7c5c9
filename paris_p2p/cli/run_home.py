"""What is known of a run whose folder, data directory or invite a command names: asked of its node where that
runs, else of its disk, or of the swarm.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from paris_p2p.cli.console import parse_invite
from paris_p2p.cli.groups import FetchFlags, fetch_settings
from paris_p2p.errors import UnreachableError, UsageError

if TYPE_CHECKING:
    from paris_p2p.handed_word import KnownWord
    from paris_p2p.node.asked_state import AskedState
    from paris_p2p.preparation.known_run import KnownRun
    from paris_p2p.rules.run_state import Certificate, RunState


@dataclass(frozen=True)
class RunHome:
    """Is a node's data directory with the run that it serves: the owner's, or of a peer that may let in."""

    folder: Path  # as it was typed
    data_dir: Path
    known: KnownRun
    word: KnownWord
    is_running: bool

    @classmethod
    def find(cls, folder: Path) -> RunHome:
        """Returns the home in a run's folder, or the one that a peer's data directory is. UsageError."""
        from paris_p2p.preparation.known_run import kept_run
        from paris_p2p.preparation.owner_words import OwnersFolder
        from paris_p2p.run_file import RUN_FILE

        is_owners = (folder / RUN_FILE).exists() or not (folder / "identity.key").exists()
        data_dir = folder / "node" if is_owners else folder
        known = OwnersFolder(folder).known if is_owners else kept_run(data_dir)
        word, is_running = ask_node(data_dir, known)
        for data in word.notices:
            known = replace(known, chain=known.chain.add(known.open(data)))
        return cls(folder, data_dir, known, word, is_running)

    @cached_property
    def state(self) -> RunState:
        return self.known.state(time.time(), certificates_of(self.word))

    def peer(self, text: str) -> str:
        """Returns the peer that a word means; UsageError."""
        from paris_p2p.preparation.what_to_say import find_peer, machines_in, names_in

        names = {**self.word.names, **names_in(self.state)}
        known = [*self.state.admissions, *self.word.peers]
        return find_peer(text, known, names, machines_in(self.state))

    def ask(self, question: str, body: bytes = b"{}") -> bytes:
        """Asks the node; UnreachableError says what to start where it is not running."""
        from paris_p2p.node.control_client import ask_control

        if not self.is_running:
            start = (
                f"paris-run publish {self.folder}"
                if self.data_dir != self.folder
                else "paris-peer start INVITE"
            )
            raise UnreachableError(
                f"the node on {self.data_dir} is not running, and nobody else can be asked; {start}"
            )
        return ask_control(self.data_dir, question, body)


def ask_node(home: Path, known: KnownRun) -> tuple[KnownWord, bool]:
    """Returns what the run's node knows, and whether it runs; of one that does not, what it has kept."""
    from paris_p2p.handed_word import KnownWord, parse_passed
    from paris_p2p.node.control_client import ask_control
    from paris_p2p.node.owner_desk import word_on_disk

    try:
        word = parse_passed(KnownWord, ask_control(home, "word"), "the answer of the run's node")
    except UnreachableError:
        return word_on_disk(home, known.run, known.open_kind), False
    if word.run != known.run.id:
        raise UsageError(
            f"the node on {home} serves run {word.run[:16]}…, and not {known.run.id[:16]}…; stop it first"
        )
    return word, True


def certificates_of(word: KnownWord) -> list[Certificate]:
    """Returns the certificates that a node knows, verified; the state says which of them count."""
    from paris_p2p.envelope import open_envelope

    return [open_envelope(data, run=word.run, kinds=("certificate",)) for data in word.certificates]


def asked_by(invite: str, flags: FetchFlags) -> AskedState:
    """Returns what the peers of an invite know of its run."""
    from paris_p2p.node.asked_state import ask_state
    from paris_p2p.node.joining import GENERATOR_DIR

    settings = fetch_settings(flags)
    return ask_state(settings, parse_invite(invite, settings.data_dir / GENERATOR_DIR))


def known_state(folder: Path) -> tuple[RunState, dict[str, str], str]:
    """Returns what the run of a folder is, what peers are called, and what is wrong with its notices."""
    from paris_p2p.preparation.owner_words import OwnersFolder
    from paris_p2p.preparation.what_to_say import names_in

    owners = OwnersFolder(folder)
    word, _ = ask_node(folder / "node", owners.known)
    if not word.fork:
        owners.take(word.notices, "the run's node")
    state = owners.known.state(time.time(), certificates_of(word))
    return state, {**word.names, **names_in(state)}, word.fork
