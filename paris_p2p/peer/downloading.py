"""Says how a download gets on: at once, every ten seconds, and when it is done; for the terminal, the log
and `status`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

from paris_p2p.byte_size import in_units
from paris_p2p.errors import SwarmError
from paris_p2p.node.run_node import RunNode
from paris_p2p.records import BlobRef

_TELL_S = 10.0


@asynccontextmanager
async def telling(
    node: RunNode, what: str, refs: Sequence[BlobRef], say: Callable[[str], None], note: Callable[[str], None]
) -> AsyncIterator[None]:
    """Tells of the blobs that are fetched inside: `say` gets a line now and then, `note` what `status` shows,
    empty at the end.

    The bytes are all that came over the network since the beginning, also what was fetched for other ends.
    """
    missing = sum(ref.size_bytes for ref in set(refs) if not node.host.store.has(ref.id))
    if not missing:
        yield
        return
    started, before = time.monotonic(), node.host.swarm.transfer.downloaded_bytes
    say(f"fetching {what}: {in_units(missing)}")
    note(f"fetching {what}: 0 of {in_units(missing)}")

    def got() -> int:
        return min(missing, node.host.swarm.transfer.downloaded_bytes - before)

    async def tell() -> None:
        while True:
            await asyncio.sleep(_TELL_S)
            line = progress_line(
                what, got(), missing, node.host.swarm.transfer.download_bytes_per_s, await _sources(node)
            )
            note(line)
            say(line)

    task = asyncio.create_task(tell())
    try:
        yield
        say(f"fetched {what}: {in_units(missing)} in {time.monotonic() - started:.0f} s")
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        note("")


def progress_line(what: str, got_bytes: int, all_bytes: int, bytes_per_s: float, peers: int) -> str:
    """Returns bytes, rate and how many peers could give them, in one line."""
    left = (
        f", about {(all_bytes - got_bytes) / bytes_per_s:.0f} s left"
        if bytes_per_s
        else ", nothing comes at the moment"
    )
    return (
        f"fetching {what}: {in_units(got_bytes)} of {in_units(all_bytes)} "
        f"at {in_units(bytes_per_s)}/s from {peers} connected peers{left}"
    )


async def _sources(node: RunNode) -> int:
    try:
        return len(await node.host.swarm.peers())
    except SwarmError:  # p2pd is being started again
        return 0
