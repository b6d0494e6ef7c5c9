"""All private runs that a node stores for, each in a task of its own: those of before, and of invites."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from paris_p2p.bootstrap.keeper import Keeper
from paris_p2p.bootstrap.keeper_joining import be_admitted, saved_tickets
from paris_p2p.invite import Invite
from paris_p2p.node.host import Host
from paris_p2p.owner_records import StorageTicket
from paris_p2p.swarm.asking import end_tasks

log = logging.getLogger(__name__)


class StorageRuns:
    """Stores for private runs until cancelled."""

    def __init__(
        self, host: Host, invites: Sequence[Invite], say: Callable[[str], None], forget_ended_s: float
    ):
        self.host, self.invites, self.say, self.forget_ended_s = host, invites, say, forget_ended_s
        self.keepers: dict[str, Keeper] = {}  # by run id

    async def run(self) -> None:
        """Raises InviteError when an invite lets this node into nothing, RecordError for a damaged ticket."""
        tickets = saved_tickets(self.host.settings.data_dir)
        known = {ticket.run for ticket in tickets}
        new = {invite.run: invite for invite in self.invites if invite.run not in known}
        works = [self._keep(ticket) for ticket in tickets]
        works += [self._join(invite) for invite in new.values()]
        tasks = [asyncio.create_task(work) for work in works]
        try:
            await asyncio.gather(*tasks)
            await asyncio.Event().wait()
        finally:
            await end_tasks(tasks)

    async def _join(self, invite: Invite) -> None:
        await self._keep(await be_admitted(self.host.identity, self.host.swarm, invite, self.say))

    async def _keep(self, ticket: StorageTicket) -> None:
        keeper = self.keepers[ticket.run] = Keeper(self.host, ticket, self.forget_ended_s)
        name = f"{keeper.public_id[:16]}…"  # what outsiders see: a run's id is for its members
        self.say(f"storing for the private run {name}")
        why = await keeper.run_until_over()
        del self.keepers[ticket.run]
        await asyncio.to_thread(keeper.forget)
        self.host.swarm.leave_run(keeper.public_id)
        self.say(f"not storing for the private run {name} any more: {why}; what was kept is deleted")
