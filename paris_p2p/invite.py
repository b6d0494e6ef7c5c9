"""An invite to a run: its id and peers to ask, as one string (docs/protocol.md, "Invite")."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, quote

from pydantic import BaseModel, ConfigDict

from paris_p2p.errors import InviteError
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


class Invite(BaseModel):
    """`paris:<run id>?peer=<multiaddr>&peer=…`: one string, like a magnet link."""

    model_config = ConfigDict(frozen=True)

    run: Hash
    peers: tuple[str, ...]

    def __str__(self) -> str:
        return f"paris:{self.run}?" + "&".join(f"peer={quote(peer, safe='/.:')}" for peer in self.peers)

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
        peers = tuple(value for name, value in parse_qsl(match[2] or "") if name == "peer")
        for peer in peers:
            try:
                peer_address(peer)
            except ValueError as error:
                raise InviteError(
                    f"the invite's peer {peer[:100]!r} {error}; copy the whole invite"
                ) from error
        return cls(run=match[1], peers=peers)
