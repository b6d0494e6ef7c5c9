"""What `paris-bootstrap check` says of a node, as JSON between two processes and in words."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from paris_p2p.records import PROTOCOL


class ProbeResult(BaseModel):
    """Holds what an independent libp2p sees of a node; fields it could not learn are empty."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: str
    expected_peer_id: str
    reachable: bool = False  # something answered there as a libp2p node, under any peer id
    reason: str = ""  # why not, or what was not learnt, in words
    peer_id: str = ""
    agent: str = Field(default="", max_length=200)
    protocols: tuple[str, ...] = Field(default=(), max_length=200)
    protocol_version: int = 0  # ours, from its stream protocols; 0: it speaks none of them
    round_trip_ms: float = 0.0  # median; 0: it did not answer a ping

    @property
    def is_expected_peer(self) -> bool:
        return self.peer_id == self.expected_peer_id

    @property
    def ok(self) -> bool:
        """Says whether it is reachable, the peer of the address, and of our protocol version."""
        return self.reachable and self.is_expected_peer and self.protocol_version == PROTOCOL

    def lines(self) -> list[str]:
        """Describes the result for a person, with what to do."""
        if not self.reachable:
            return [f"not reachable: {self.reason}"]
        if not self.is_expected_peer:
            return [
                f"reachable, but another peer answers there: {self.peer_id}",
                f"the address names {self.expected_peer_id}; use the node's present address",
            ]
        version = f"paris-p2p protocol {self.protocol_version}"
        if self.protocol_version == 0:
            version = "not a paris-p2p node, or one that serves no run yet (no /paris/blob/ stream)"
        elif self.protocol_version != PROTOCOL:
            version += f"; this is protocol {PROTOCOL}, update the older of the two"
        return [
            f"reachable: {self.address}",
            f"peer id    {self.peer_id} (as in the address)",
            f"round trip {self.round_trip_ms:.1f} ms" if self.round_trip_ms else "round trip not answered",
            f"version    {version}",
            f"agent      {self.agent or 'not told'}",
            f"protocols  {', '.join(self.protocols) or 'not told'}",
            *([self.reason] if self.reason else []),
        ]
