"""An invite to a run: its id and peers to ask, as one string (docs/protocol.md, "Invite")."""

from __future__ import annotations

import re
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from urllib.parse import parse_qsl, quote

from pydantic import BaseModel, ConfigDict, ValidationError

from paris_p2p.envelope import Envelope, open_envelope, seal
from paris_p2p.errors import InviteError, RecordError, UsageError
from paris_p2p.identity import Identity
from paris_p2p.kinds import SIGNED_LIFETIME_S
from paris_p2p.owner_records import Right, TokenRecord
from paris_p2p.pasted import invites_in
from paris_p2p.records import Hash

# Narrow on purpose: addresses end up in p2pd's flags, separated by commas.
_MULTIADDR = re.compile(
    r"/(ip4|ip6|dns|dns4|dns6)/[A-Za-z0-9.:%_-]+/(tcp|udp)/(?P<port>[0-9]{1,5})(/[A-Za-z0-9._-]+)*"
    r"/p2p/[1-9A-HJ-NP-Za-km-z]{40,60}(/p2p-circuit(/p2p/[1-9A-HJ-NP-Za-km-z]{40,60})?)?"
)


def peer_address(text: str) -> str:
    """Returns a multiaddr that ends in a peer id; ValueError when it is none."""
    address = _MULTIADDR.fullmatch(text)
    cut = re.search(r"/p2p/12D3Koo(?![1-9A-HJ-NP-Za-km-z]{45}(/|$))", text)  # an Ed25519 id has 52 letters
    if address is None or cut or int(address["port"]) > 65535:
        raise ValueError("is not a multiaddr like /ip4/1.2.3.4/tcp/31337/p2p/12D3Koo…")
    return text


def make_token(
    issuer: Identity,
    run: str,
    rights: Sequence[Right],
    *,
    uses: int,
    now_s: float,
    until_s: float,
    admitters: Sequence[str],
) -> Envelope[TokenRecord]:
    """Signs a join token that the `admitters` redeem; UsageError for what no token can say.

    The owner's key, its node's, or a delegate's may sign it.
    """
    longest_s = SIGNED_LIFETIME_S["token"]
    if "admit" in rights:
        raise UsageError(
            "an invite gives nobody the right to let others in; "
            "name a delegate with `paris-run say FOLDER admit PEER --for admit`"
        )
    if not now_s < until_s <= now_s + longest_s:
        raise UsageError(
            f"an invite lasts up to {longest_s / 86400:.0f} days from now, "
            f"this one would {(until_s - now_s) / 86400:.1f}"
        )
    try:
        record = TokenRecord(
            run=run,
            seq=int(now_s * 1000),
            issued_at=now_s,
            expires_at=until_s,
            token=secrets.token_bytes(16),
            rights=tuple(rights),
            uses=uses,
            admitters=tuple(admitters),
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageError(f"no invite can have {where} {first['input']!r}: {first['msg']}") from error
    return seal(issuer, record)


class Invite(BaseModel):
    """`paris:<run id>?peer=<multiaddr>&peer=…&join=<token>`: one string, like a magnet link."""

    model_config = ConfigDict(frozen=True)

    run: Hash
    peers: tuple[str, ...]
    join: bytes = b""  # a token's envelope, which opens a members-only run; b"": none

    def __str__(self) -> str:
        parts = [f"peer={quote(peer, safe='/.:')}" for peer in self.peers]
        if self.join:
            parts.append(f"join={urlsafe_b64encode(self.join).decode().rstrip('=')}")
        return f"paris:{self.run}?" + "&".join(parts)

    @property
    def token(self) -> Envelope[TokenRecord] | None:
        """Returns the join token, which `parse` has verified; None where the invite has none."""
        return _token(self.run, self.join) if self.join else None

    def usable_token(self, now_s: float) -> Envelope[TokenRecord] | None:
        """Returns the join token; InviteError when its time is over, or has not come by this clock."""
        token = self.token
        if token is not None and token.record.expires_at <= now_s:
            raise InviteError(
                f"the invite's join token has expired, {(now_s - token.record.expires_at) / 3600:.1f} h ago; "
                "ask the run's owner for a new invite"
            )
        return token

    @classmethod
    def parse(cls, text: str) -> Invite:
        """Reads an invite, also out of the mail or chat around it; InviteError says which part is wrong."""
        fault: InviteError | None = None
        for candidate in invites_in(text):
            try:
                return cls._parse(candidate)
            except InviteError as error:
                fault = fault or error
        if fault is not None:
            raise fault
        raise InviteError(
            f"not an invite: {text.strip()[:60]!r}. An invite looks like paris:<run id>?peer=<multiaddr>; "
            "ask the run's owner for it"
        )

    @classmethod
    def _parse(cls, text: str) -> Invite:
        match = re.fullmatch(r"paris:([^?]*)(?:\?(.*))?", text, re.DOTALL)
        if match is None:
            raise InviteError(f"not an invite: {text[:60]!r}")
        if not re.fullmatch(r"[0-9a-f]{64}", match[1]):
            raise InviteError(
                f"the invite's run id must be 64 hex digits, this one is {match[1][:70]!r} "
                f"({len(match[1])}); copy the whole invite"
            )
        parts = parse_qsl(match[2] or "")
        peers = tuple(value for name, value in parts if name == "peer")
        tokens = [value for name, value in parts if name == "join"]
        for peer in peers:
            try:
                peer_address(peer)
            except ValueError as error:
                raise InviteError(
                    f"the invite's peer {peer[:100]!r} {error}; copy the whole invite"
                ) from error
        if len(tokens) > 1:
            raise InviteError(f"the invite has {len(tokens)} join tokens where one is due; copy it again")
        return cls(run=match[1], peers=peers, join=_decoded(match[1], tokens[0]) if tokens else b"")


def _decoded(run: str, text: str) -> bytes:
    """Returns a token's bytes; InviteError says what is wrong with it."""
    try:
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,2048}", text):
            raise ValueError("it holds letters that no token has")
        data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
        if urlsafe_b64encode(data).decode().rstrip("=") != text:
            raise ValueError("its last letter is none of a token's")
        _token(run, data)
    except (ValueError, RecordError) as error:
        raise InviteError(
            f"the invite's join token is damaged, or of another run than {run[:16]}… ({error}); "
            "copy the whole invite, or ask the run's owner for a new one"
        ) from error
    return data


def _token(run: str, data: bytes) -> Envelope[TokenRecord]:
    return open_envelope(data, run=run, kinds=("token",))
