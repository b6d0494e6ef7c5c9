"""A process that fetches into a real store until it has some chunks, says which were asked for, and waits
to be killed.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from paris_p2p.identity import Identity
from paris_p2p.node.blob_sources import SourceLedger
from paris_p2p.node.fetch import Fetcher
from paris_p2p.rules import chunks as chunks_rules
from paris_p2p.store.blobs import BlobStore
from paris_p2p.swarm.fake import FakeNetwork
from tests.node.seeders import SeededSwarm, Seeder, honest, made_blob


async def main(root: Path, chunks: int, stop_after: int) -> None:
    chunks_rules.LEAST_CHUNK_BYTES = 1
    swarm = SeededSwarm(FakeNetwork(), Identity.generate())
    blob = made_blob(chunks)
    store = BlobStore(root)
    seeder: Seeder = swarm.add(honest(blob))
    never = asyncio.Event()

    def progress(received_bytes: int) -> None:
        if received_bytes >= stop_after * blob.chunk_bytes:
            here = [
                index for index in range(blob.count) if store.have(blob.ref.id)[index >> 3] >> (index & 7) & 1
            ]
            print(json.dumps({"here": here, "asked": sorted(seeder.asked)}), flush=True)
            sys.stdin.read()  # the whole loop stands still here, in the middle of a fetch, until SIGKILL

    await Fetcher(swarm, store, SourceLedger()).one(blob.ref, swarm.sources, progress)
    await never.wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
