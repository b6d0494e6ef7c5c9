"""Makes up a stranger's runs: a peer that gives their RunSpecs, and nothing else."""

from __future__ import annotations

from typing import Any

from paris_p2p.envelope import Envelope
from paris_p2p.errors import MissingBlobError
from paris_p2p.identity import Identity
from paris_p2p.spec import RunSpec, sign_run


class JunkRuns:
    """Answers as a peer does that knows RunSpecs and holds no blob or record."""

    def __init__(self, base: RunSpec) -> None:
        self.base = base
        self.specs: dict[str, bytes] = {}

    def add(self, name: str) -> Envelope[RunSpec]:
        """Returns one more run, signed by a key of its own; it can be asked for from now on."""
        run = sign_run(Identity.generate(), self.base.model_copy(update={"name": name}))
        self.specs[run.id] = run.data
        return run

    def shown_to(self, *asked: Any) -> JunkRuns:
        return self

    def knows(self, peer: str, /) -> bool:
        return False

    def tells_where(self) -> bool:
        return True

    async def converse(self, *said: Any) -> None:
        return None

    def spec(self, run_id: str, /) -> bytes | None:
        return self.specs.get(run_id)

    def manifest_bytes(self, blob_id: str, /) -> bytes | None:
        return None

    def have(self, blob_id: str, /) -> bytes:
        return b""

    def read_chunk(self, blob_id: str, index: int, room: memoryview | None = None, /) -> bytes | memoryview:
        raise MissingBlobError("nothing is here")

    def records(self, key: str, /) -> list[bytes]:
        return []
