"""Whether what this peer kept of a run lets it in, or it has to join again (docs/protocol.md, "Joining")."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from paris_p2p.envelope import Envelope, open_envelope
from paris_p2p.errors import InviteError
from paris_p2p.invite import Invite
from paris_p2p.keyring import Keyring, load_keyring
from paris_p2p.node.host import Host, spec_path
from paris_p2p.node.membership import own_certificate
from paris_p2p.node.owners_word import Opener, OwnersWord
from paris_p2p.node.run_swarm import IN_PERSON
from paris_p2p.owner_records import CertificateRecord
from paris_p2p.spec import RunSpec
from paris_p2p.store.ledger import Ledger
from paris_p2p.veil import open_sealed


def is_outside(host: Host, run: Envelope[RunSpec], invite: Invite) -> bool:
    """Tells whether this peer needs a certificate of a run that is known here, and has none, or one that
    counts no more, since its delegate is none any more, and an invite that may bring another.
    """
    spec, me = run.record, host.identity.peer_id
    if not spec.members_only or me == spec.owner_node or me in spec.gate.attestors:
        return False
    folder = spec_path(host.settings.data_dir, run.id).parent
    ledger = Ledger(folder / "ledger")
    certificate = own_certificate(ledger, run.id, me)
    if certificate is None:
        return True
    try:
        can_ask = not invite.join or invite.usable_token(time.time()) is not None
    except InviteError:  # the token that it came with, long ago
        can_ask = False
    return can_ask and not _counts(certificate, folder, ledger, run)


def _counts(
    certificate: Envelope[CertificateRecord], folder: Path, ledger: Ledger, run: Envelope[RunSpec]
) -> bool:
    """Tells whether a certificate is of use by what this peer kept of its run; one that is revoked itself has
    nothing better to get.
    """
    ring = load_keyring(folder)
    if run.record.private and (not ring.keys or ring.keys[0].hash != run.record.key_hash):
        return False  # it reads nothing without its keys
    word = OwnersWord(run.id, run.record, ledger, kept_opener(run, ring))
    me = certificate.record.peer
    word.add_certificate(certificate)
    return word.state.is_member(me) or word.state.is_revoked(me)


def kept_opener(run: Envelope[RunSpec], ring: Keyring) -> Opener:
    """Returns what opens the records of a run that are kept here."""

    def opened(data: bytes, kinds: tuple[str, ...]) -> Envelope[Any]:
        if not run.record.private or set(kinds) <= set(IN_PERSON):
            return open_envelope(data, run=run.id, kinds=kinds)
        return open_sealed(data, ring, run.id, kinds)

    return opened
