"""How a storage node gets into a private run: by the token of an invite, for which it gets its certificate
and the door keys (docs/operators.md, "Storage for a private run").
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from paris_p2p.disk import explained, make_directory, write_atomic
from paris_p2p.envelope import decode, encode, parse
from paris_p2p.errors import InviteError, MissingBlobError, RecordError, SwarmError
from paris_p2p.identity import Identity
from paris_p2p.invite import Invite
from paris_p2p.key_box import doors_with, open_gift
from paris_p2p.keyring import DoorKey, DoorRing
from paris_p2p.node.facing import join_name
from paris_p2p.node.joining import SILENT_TRIES
from paris_p2p.node.membership import open_certificate
from paris_p2p.owner_records import JoinAnswer, JoinRequest, StorageTicket
from paris_p2p.rules.admission import REASONS
from paris_p2p.swarm.seam import Swarm

KEPT = "kept"  # in the data directory: a folder for each private run, by the name that outsiders see
TICKET_FILE = "door"
AGAIN_S = 10.0  # between two tries to be let in
_MAX_TICKET_BYTES = 1 << 20


def ring_of(ticket: StorageTicket) -> DoorRing:
    """Returns the door keys on a ticket."""
    doors = tuple(DoorKey(secret, mark.hex()) for secret, mark in ticket.doors)
    return DoorRing(ticket.address, doors)


def with_ring(ticket: StorageTicket, ring: DoorRing) -> StorageTicket:
    doors = tuple((door.secret, bytes.fromhex(door.mark)) for door in ring.doors)
    return ticket.model_copy(update={"doors": doors})


def save_ticket(home: Path, ticket: StorageTicket) -> Path:
    """Keeps a ticket for this user alone; returns the run's folder."""
    folder = home / KEPT / ring_of(ticket).veiled_run
    with explained(folder):
        make_directory(folder)
        write_atomic(folder / TICKET_FILE, encode(ticket.model_dump()), mode=0o600)
    return folder


def saved_tickets(home: Path) -> list[StorageTicket]:
    """Returns the tickets that are kept here; RecordError names a damaged one."""
    return [_read_ticket(path) for path in sorted((home / KEPT).glob(f"*/{TICKET_FILE}"))]


def _read_ticket(path: Path) -> StorageTicket:
    try:
        with explained(path), path.open("rb") as file:
            data = file.read(_MAX_TICKET_BYTES)
        return parse(StorageTicket, decode(data))
    except RecordError as error:
        raise RecordError(
            f"{path} is damaged: {error}; delete its folder and join again with a new invite"
        ) from error


async def be_admitted(
    identity: Identity, swarm: Swarm, invite: Invite, say: Callable[[str], None], again_s: float = AGAIN_S
) -> StorageTicket:
    """Shows an invite's token to those that it names until one lets this node in; InviteError.

    Where none will it says why; while they are away, it says for whom it waits.
    """
    said, silent = "", 0
    while True:
        token = invite.usable_token(time.time())
        if token is None:
            raise InviteError(
                "the invite has no join token; ask the run's owner for one that allows to store: "
                "`paris-run invite FOLDER --for store`"
            )
        away = []
        for peer in token.record.admitters:
            try:
                answer = await swarm.ask(peer, "join", join_name(invite.run, peer), _request(invite))
            except MissingBlobError as error:
                if (silent := silent + 1) < SILENT_TRIES:
                    away.append(f"{peer} (it does not serve this run, or not yet)")
                    continue
                raise InviteError(
                    f"not let in by {peer}: it does not serve this run, or the invite's maker may not let "
                    "in any more; ask the run's owner for a new invite"
                ) from error
            except SwarmError as error:
                away.append(f"{peer} ({error})")
                continue
            return _ticket(identity, invite.run, parse(JoinAnswer, decode(answer)))
        if (words := f"waiting to be let in by {', '.join(away)}") != said:
            said = words
            say(words)
        await asyncio.sleep(again_s)


def _request(invite: Invite) -> bytes:
    return encode(JoinRequest(token=invite.join).model_dump(exclude_defaults=True))


def _ticket(identity: Identity, run: str, answer: JoinAnswer) -> StorageTicket:
    if answer.why:
        why = REASONS.get(answer.why, answer.why)
        raise InviteError(f"not let in: {why}; ask the run's owner for a new invite")
    if answer.spec or not answer.owner or not answer.owner_node:
        raise InviteError(
            "the invite allows more than to store, or its run is not private; ask the run's owner for "
            "`paris-run invite FOLDER --for store`, or give the invite to --mirror"
        )
    certificate = open_certificate(run, answer.certificate)
    ring = doors_with(None, open_gift(identity, answer.keys), ())
    if ring is None or certificate.record.peer != identity.peer_id:
        raise RecordError("what came from the run's node is no admission of this one; ask its owner")
    doors = tuple((door.secret, bytes.fromhex(door.mark)) for door in ring.doors)
    return StorageTicket(
        run=run,
        owner=answer.owner,
        owner_node=answer.owner_node,
        attestors=answer.attestors,
        certificate=answer.certificate,
        address=ring.address_door,
        doors=doors,
    )
