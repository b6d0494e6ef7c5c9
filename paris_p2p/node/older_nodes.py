"""Bootstrap nodes of an older version keep nothing of a private run; a person is told which those are."""

from __future__ import annotations

import logging

from paris_p2p.errors import MissingBlobError, OlderPeerError, SwarmError
from paris_p2p.swarm.seam import Swarm

log = logging.getLogger(__name__)


async def warn_of_older_nodes(swarm: Swarm, run: str) -> list[str]:
    """Asks the nodes that this one was told to join by whether they know private runs; returns older ones.

    `run` is the name that outsiders see.
    """
    older = []
    for peer in sorted(swarm.given_peers):
        try:
            await swarm.ask(peer, "hello", run, b"")
        except OlderPeerError:
            older.append(peer)
        except (MissingBlobError, SwarmError) as error:
            log.debug("%s was not asked for its version: %s", peer[-8:], error)
    for peer in older:
        log.warning(
            "the node %s runs an older version of paris-p2p, which keeps no records of a private run: its "
            "members may not hear of one another through it; ask its operator to update, or name another "
            "node with --peer",
            peer,
        )
    return older
