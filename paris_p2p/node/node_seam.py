"""What the parts of a node ask of the whole: so that they need not know it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

from paris_p2p.envelope import Envelope
from paris_p2p.identity import Identity
from paris_p2p.node.owners_word import OwnersWord
from paris_p2p.node.run_keys import RunKeys
from paris_p2p.node.run_swarm import RunSwarm
from paris_p2p.owner_records import MemberRecord
from paris_p2p.records import Signed
from paris_p2p.rules.chain import Chain
from paris_p2p.rules.run_state import RunState
from paris_p2p.spec import RunSpec
from paris_p2p.store.ledger import Ledger
from paris_p2p.swarm.seam import Swarm


class HostSeam(Protocol):
    """Is a host, as a part of one of its runs sees it."""

    @property
    def identity(self) -> Identity: ...

    @property
    def swarm(self) -> Swarm: ...


class NodeSeam(Protocol):
    """Is a run's node, as its membership and its admitter see it."""

    run: str
    signed_spec: RunSpec
    signed_data: bytes
    ledger: Ledger
    word: OwnersWord
    keys: RunKeys
    swarm: RunSwarm
    refused: Counter[str]

    @property
    def host(self) -> HostSeam: ...

    @property
    def peer_id(self) -> str: ...

    @property
    def public_id(self) -> str: ...

    @property
    def chain(self) -> Chain: ...

    @property
    def state(self) -> RunState: ...

    def header(self, kind: str, slot: str, lifetime_s: float | None = None) -> dict[str, Any]: ...

    def sign(self, record: Signed, keys: int | None = None) -> Envelope[Any]: ...

    async def refresh(self, slots: Sequence[str] = ()) -> None: ...

    async def tell(self, envelope: Envelope[Any]) -> None: ...

    def add_member(self, member: Envelope[MemberRecord]) -> bool: ...
