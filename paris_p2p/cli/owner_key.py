"""The passphrase of an owner's key: from a variable, or asked for where nobody can look on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from paris_p2p.identity import Identity

PASSPHRASE_VARIABLE = "PARIS_OWNER_PASSPHRASE"


def ask_passphrase(*, confirm: bool) -> str:
    """Returns the passphrase in the variable, or the one that a person types."""
    given = os.environ.get(PASSPHRASE_VARIABLE)
    if given is not None:
        return given
    answer: str = typer.prompt("Passphrase of the owner's key", hide_input=True, confirmation_prompt=confirm)
    return answer


def open_owner_key(folder: Path) -> Identity:
    """Returns the key that signs, whose passphrase is asked for where it has one. UsageError."""
    from paris_p2p.preparation.create import KEY_FILE
    from paris_p2p.preparation.owner_words import is_locked, owner_key

    is_protected = is_locked(folder / KEY_FILE)
    return owner_key(folder, ask_passphrase(confirm=False) if is_protected else None)
