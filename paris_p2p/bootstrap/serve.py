"""An operator's node: entry point, relay, store and forward (DESIGN sections 1 and 6).

It learns of runs from the records its own DHT node is given, asks their signers for the RunSpec, and then holds every
tip within its disk cap, so that two peers behind NAT exchange checkpoints through it. It imports no torch of its own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from paris_p2p.envelope import Envelope
from paris_p2p.errors import DiskFullError, ParisError, SwarmError
from paris_p2p.node.copies import Copies
from paris_p2p.node.host import Host, open_host, save_spec
from paris_p2p.node.run import HOLDER_LIFETIME_S, RunNode, opened
from paris_p2p.node.signals import on_leave_signals
from paris_p2p.records import BlobRef, PeerRecord
from paris_p2p.shown import say
from paris_p2p.spec import PeerSettings, open_run

log = logging.getLogger(__name__)
MAX_RUNS = 64
MAX_HEARD = 4 * MAX_RUNS
MAX_HEARD_OF_ONE = 16  # runs waiting to be joined that one signer named
MAX_ASKED = 8  # for RunSpecs at once, for one of each signer: whoever is silent holds up nobody else
SPEC_LIMIT_S = 60.0
PERIOD_S = 3.0
REFRESH_S = 60.0  # gossip is a hint: a card told while its maker was cut off is only on the bulletin board


class BootstrapNode:
    """Watches for runs and mirrors them; `mirror` names the runs it may hold, empty means any."""

    def __init__(self, host: Host, mirror: frozenset[str], say: Callable[[str], None]):
        self.host, self.mirror, self.say = host, mirror, say
        self.runs: dict[str, RunNode] = {}
        self.heard: dict[str, str] = {}  # run id -> a peer that may have its RunSpec
        self._asked: dict[str, str] = {}  # run id -> the peer that is being asked for its RunSpec
        self._joining: dict[str, asyncio.Task[None]] = {}  # by run id
        self._announced: dict[str, float] = {}
        self._refreshed: dict[str, float] = {}
        self._copies = Copies()  # by run and slot
        self._full = False

    def notice(self, envelope: Envelope[Any]) -> None:
        """A record our DHT node accepted: its signer takes part in its run."""
        run, signer = envelope.record.run, envelope.signer
        if run in self.runs or run in self._joining or (self.mirror and run not in self.mirror):
            return
        if run in self.heard:
            if isinstance(envelope.record, PeerRecord) and envelope.record.role == "owner":
                self.heard[run] = signer
        elif len(self.heard) < MAX_HEARD and list(self.heard.values()).count(signer) < MAX_HEARD_OF_ONE:
            self.heard[run] = signer

    async def run(self) -> None:
        """Until cancelled."""
        async with AsyncExitStack() as stack:
            try:
                while True:
                    self._join_heard(stack)
                    for node in list(self.runs.values()):
                        await self._mirror(node)
                    await asyncio.sleep(PERIOD_S)
            finally:
                await self._stop_tasks()

    def _join_heard(self, stack: AsyncExitStack) -> None:
        """Begin to join what was heard of, beside the mirroring."""
        for run_id, peer in list(self.heard.items()):
            if len(self.runs.keys() | self._joining.keys()) >= MAX_RUNS or peer == self.host.identity.peer_id:
                del self.heard[run_id]
            elif len(self._asked) < MAX_ASKED and peer not in self._asked.values():
                del self.heard[run_id]
                self._asked[run_id] = peer
                self._joining[run_id] = asyncio.create_task(self._join(stack, run_id, peer))

    async def _join(self, stack: AsyncExitStack, run_id: str, peer: str) -> None:
        try:
            async with asyncio.timeout(SPEC_LIMIT_S):
                run = open_run(await self.host.swarm.fetch_spec(peer, run_id), run_id)
            del self._asked[run_id]
            save_spec(self.host.settings.data_dir, run)
            self.runs[run_id] = await stack.enter_async_context(opened(self.host, run))
            self.say(f"mirroring run {run.record.name!r} ({run_id[:16]}…) of {run.signer}")
        except ParisError as error:
            log.info("run %s was not joined through %s: %s", run_id[:16], peer, error)
        except TimeoutError:
            log.info("run %s was not joined through %s: no RunSpec within %.0f s", run_id[:16], peer, SPEC_LIMIT_S)
        except Exception:  # this run's fault, or the disk's; the others are mirrored as before
            log.exception("run %s could not be joined", run_id)
        finally:
            self._asked.pop(run_id, None)
            del self._joining[run_id]

    async def _mirror(self, node: RunNode) -> None:
        """Pull what is missing of the run's data and tips; within the cap, newest first."""
        now = time.monotonic()
        self._copies.want(node.run, node.run, partial(self._hold, node, list(node.spec.data_blobs), node.run, now))
        for slot in node.spec.slots:
            tip = node.board.tip(slot)
            if tip is not None:
                refs = [tip.card.record.weights, tip.card.record.resume]
                self._copies.want(node.run + slot, tip.card.id, partial(self._hold, node, refs, tip.card.id, now))
                node.keep_good(tip.card.record)
        await node.forget_superseded()
        try:
            if now - self._announced.get(node.run + "peer", -1e9) > HOLDER_LIFETIME_S / 6:
                self._announced[node.run + "peer"] = now
                await node.announce_peer("bootstrap")
            if now - self._refreshed.get(node.run, -1e9) > max(PERIOD_S, min(REFRESH_S, node.spec.timing.checkpoint_s)):
                self._refreshed[node.run] = now
                await node.refresh()
        except SwarmError as error:
            log.info("the swarm does not answer about %s: %s", node.run[:16], error)

    async def _stop_tasks(self) -> None:
        tasks = list(self._joining.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, self._copies.close(), return_exceptions=True)

    async def _hold(self, node: RunNode, refs: list[BlobRef], what: str, now: float) -> None:
        missing = [ref for ref in refs if not self.host.store.has(ref.id)]
        try:
            if missing:
                await node.fetch(missing, what)
                self._full = False
            elif now - self._announced.get(what, -1e9) < HOLDER_LIFETIME_S / 3:
                return
            self._announced[what] = now
            await node.announce_holding(what)
        except DiskFullError as error:
            if not self._full:
                self.say(f"not mirroring more: {error}")
            self._full = True
        except ParisError as error:
            log.info("could not copy %s: %s", what[:16], error)


def serve(
    settings: PeerSettings, bootstrap_peers: tuple[str, ...], mirror: frozenset[str], ready: Callable[[tuple[str, ...]], None]
) -> None:
    """Run a bootstrap node until SIGINT, SIGTERM or SIGHUP; `ready` gets the multiaddrs others dial."""

    async def life() -> None:
        nodes: list[BootstrapNode] = []

        def notice(envelope: Envelope[Any]) -> None:
            for node in nodes:
                node.notice(envelope)

        async with open_host(settings, bootstrap_peers, relay_service=True, on_record=notice) as host:
            nodes.append(BootstrapNode(host, mirror, say))
            ready(host.swarm.addresses())
            stopped = asyncio.Event()
            on_leave_signals(stopped.set)
            working = asyncio.create_task(nodes[0].run())
            stopping = asyncio.create_task(stopped.wait())
            await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if working.done():
                working.result()
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    asyncio.run(life())
