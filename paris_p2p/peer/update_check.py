"""Asks the peers of a run for the versions of this program that they have: `paris update-check`."""

from __future__ import annotations

import asyncio

from paris_p2p.errors import UnreachableError
from paris_p2p.invite import Invite
from paris_p2p.node.run_look import looking_at_run
from paris_p2p.node.run_records import own_version
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.rules.versions import Versions, compare_versions

_LIMIT_S = 90.0


def versions_of_peers(settings: PeerSettings, invite: Invite) -> Versions:
    """Returns what peers of a run announce; UnreachableError where nobody tells this machine."""

    async def ask() -> Versions:
        async with looking_at_run(settings, invite) as look:
            if look.node is None:
                raise UnreachableError(f"the run's peers tell this machine no versions: {look.why_not}")
            owner = look.node.signed_spec.owner_node
            return compare_versions(own_version(), look.node.versions, owner)

    async def in_time() -> Versions:
        try:
            async with asyncio.timeout(_LIMIT_S):
                return await ask()
        except TimeoutError as error:
            raise UnreachableError(
                f"the run's peers told no versions within {_LIMIT_S:.0f} s; try again when more are online"
            ) from error

    return asyncio.run(in_time())
