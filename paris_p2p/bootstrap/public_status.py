"""What a bootstrap node tells everybody, where its operator publishes a page: nothing of private runs, nor of
the machine, nor of who is connected.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from paris_p2p.bootstrap.operator_status import HeldRun, OperatorStatus
from paris_p2p.dashboard.public import serving_public
from paris_p2p.node.node_figures import NodeFigures


class PublicStatus(NodeFigures):
    """A bootstrap node as everybody may see it."""

    at: float
    peer_id: str
    version: str
    addresses: tuple[str, ...]
    runs: tuple[HeldRun, ...]
    peer_count: int


def public_status(status: OperatorStatus) -> PublicStatus:
    """Returns what everybody may see of it. Private runs are not among its runs, and are not counted."""
    return PublicStatus(
        at=status.at,
        peer_id=status.peer_id,
        version=status.version,
        addresses=status.addresses,
        runs=status.runs,
        peer_count=len(status.peers),
        peers=(),
        network_trouble=status.network_trouble,
        uploaded_bytes=status.uploaded_bytes,
        downloaded_bytes=status.downloaded_bytes,
        upload_bytes_per_s=status.upload_bytes_per_s,
        download_bytes_per_s=status.download_bytes_per_s,
    )


@asynccontextmanager
async def public_page(
    address: str, status: Callable[[], Awaitable[OperatorStatus]], say: Callable[[str], None]
) -> AsyncIterator[None]:
    """Serves everybody a page without buttons at `address:port` while inside; none where it is empty."""

    async def seen() -> PublicStatus:
        return public_status(await status())

    def told(status: NodeFigures) -> dict[str, Any]:
        return status.model_dump(mode="json", exclude=set(NodeFigures.model_fields) - _TOLD)

    async with serving_public(address, seen, told, say):
        yield


_TOLD = {"uploaded_bytes", "downloaded_bytes", "upload_bytes_per_s", "download_bytes_per_s"}
