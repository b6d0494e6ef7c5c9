"""What a join token is worth, and what a certificate made for it says (docs/protocol.md, "Joining")."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from paris_p2p.envelope import Envelope
from paris_p2p.owner_records import Right, TokenRecord
from paris_p2p.rules.run_state import RunState

Token = Envelope[TokenRecord]
# Of a certificate that a person gives by hand, or that a token buys: then the peer comes again.
CERTIFICATE_S = 365 * 86400.0


def issued_in_order(state: RunState, token: Token) -> bool:
    """Tells whether a token was signed by somebody who may let others in, and still may.

    A token that was not is a stranger's, who is told nothing.
    """
    signer = token.signer
    return token.record.run == state.run and (signer == state.signed.owner or state.may(signer, "admit"))


def token_fault(state: RunState, token: Token, admitter: str, users: Collection[str], peer: str) -> str:
    """Returns why a token that was issued in order lets nobody in here: a code of `REASONS`; "" when it does.

    `users` came with it before. One of them uses nothing up; once one of them is revoked, nobody new comes
    with it: the revoked one has it still, and would come back under another key.
    """
    record, is_known, used = token.record, peer in users, len(users)
    if state.ended is not None:
        return "ended"
    if admitter not in record.admitters:
        return "elsewhere"
    if not state.may(admitter, "admit"):
        return "no-delegate"
    if state.now_s >= record.expires_at:
        return "expired"
    if not is_known and used >= record.uses:
        return "used-up"
    if not is_known and any(state.is_revoked(user) for user in users):
        return "closed"
    return ""


REASONS: dict[str, str] = {
    "ended": "the run's owner has ended it; what it trained can be fetched by its members",
    "elsewhere": "the invite names other peers that let in by it",
    "no-delegate": "that peer may not let in by it any more",
    "expired": "the invite's join token has expired",
    "used-up": "the invite's join token is used up: as many machines joined with it as its maker allowed",
    "closed": "a peer that came with this invite was revoked since, so that it lets in nobody new",
    "full": "that peer has let in as many peers as it can",
    "denied": "the run's owner said no",
}


def certificate_rights(rights: Iterable[Right], *, generator: bool = False) -> tuple[Right, ...]:
    """Returns the rights of a certificate that a token buys: a machine's generator gets no more than to
    generate, and the right to let others in is given by the owner's notice alone.
    """
    given = tuple(right for right in rights if right != "admit")
    return tuple(right for right in given if right == "generate") if generator else given
