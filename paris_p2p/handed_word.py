"""What passes between an owner's commands and the run's node: notices on their way out, and what the node
knows (docs/owners.md, "How do I change a run that is published?").

Both travel as JSON: over the control API of this machine, or in a file from the machine that holds the
owner's key.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from paris_p2p.bounded_json import depth_of
from paris_p2p.errors import UsageError
from paris_p2p.kinds import DEFAULT_MAX_ENVELOPE_BYTES
from paris_p2p.owner_records import FOREVER_S, MAX_NOTICES, Right
from paris_p2p.records import Count, Hash, Seconds, Slot

MAX_HANDED_BYTES = 1 << 26  # all notices that a run can have, in base64, are 45 MB
_MAX_DEPTH = 8
M = TypeVar("M", bound=BaseModel)
Data = Annotated[bytes, Field(max_length=DEFAULT_MAX_ENVELOPE_BYTES)]


class _Passed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64")


class HandedWord(_Passed):
    """Holds signed notices for the run's node, with a private run's keys sealed to that node."""

    format: Literal["paris-p2p notices 1"] = "paris-p2p notices 1"
    run: Hash
    notices: Annotated[tuple[Data, ...], Field(max_length=MAX_NOTICES)]
    keys: Annotated[bytes, Field(max_length=1 << 18)] = b""


class CardPlace(_Passed):
    """Says where an attested card stands in its slot."""

    card: Hash
    seq: Count
    epoch: Count
    maker: str


class SlotPlaces(_Passed):
    """Holds a slot's newest attested cards, the tip first; no epoch that it had reaches `floor`."""

    slot: Slot
    floor: Count
    cards: tuple[CardPlace, ...] = ()


class KnownWord(_Passed):
    """Is what a node knows of its run's notices and members."""

    run: Hash
    notices: tuple[bytes, ...] = ()
    certificates: tuple[bytes, ...] = ()
    names: dict[str, str] = {}  # that peers gave themselves
    peers: tuple[str, ...] = ()  # connected ones
    slots: tuple[SlotPlaces, ...] = ()
    fork: str = ""  # what a person is told where the owner's notices contradict one another


class Asked(_Passed):
    """Asks the node about one of its notices."""

    number: Count


class Holders(_Passed):
    """Says which of the connected peers have a notice."""

    connected: Count
    have: tuple[str, ...] = ()


class Request(_Passed):
    """Is a peer that asks to be let in, as the node knows it."""

    number: Count
    peer: str
    name: str
    address: str
    is_generator: bool
    asked_s: float  # Unix time


class Requests(_Passed):
    """Holds those that ask to be let in, or the one that was answered."""

    asking: tuple[Request, ...] = ()


class Reply(_Passed):
    """Lets in a peer that asks, or says no to it, where it gets no rights."""

    number: Count
    rights: tuple[Right, ...] = ()
    until: Seconds = FOREVER_S


def parse_passed(model: type[M], data: bytes, what: str, wants: str = "is not what is wanted here") -> M:
    """Returns what was passed; UsageError, naming `what`, where it is something else."""
    if len(data) > MAX_HANDED_BYTES:
        raise UsageError(f"{what} has more than {MAX_HANDED_BYTES / 1e6:.0f} MB; it is something else")
    if depth_of(data) > _MAX_DEPTH:
        raise UsageError(f"{what} nests too deep to be what is wanted here")
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise UsageError(f"{what} {wants}: {where}: {first['msg']}") from error


def read_handed(path: Path) -> HandedWord:
    """Returns the notices in a file of `--sign-only`; UsageError where it is something else."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_HANDED_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}; name the file of --sign-only") from error
    return parse_passed(HandedWord, data, str(path), "is no file that --sign-only wrote, or was cut")
