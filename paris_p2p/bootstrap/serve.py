"""An operator's node: entry point, relay, store and forward (docs/architecture.md).

It learns of runs from the records its own DHT node is given, asks their signers for the RunSpec, and then
holds every tip within its disk cap, so that two peers behind NAT exchange checkpoints through it. It imports
no torch of its own.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from paris_p2p.disk import explained, write_atomic
from paris_p2p.envelope import Envelope
from paris_p2p.errors import DiskFullError, ParisError, SwarmError
from paris_p2p.node.copies import Copies
from paris_p2p.node.host import Host, load_spec, open_host, save_spec
from paris_p2p.node.run_node import HOLDER_LIFETIME_S, RunNode, opened
from paris_p2p.node.signals import on_leave_signals
from paris_p2p.records import BlobRef, PeerRecord
from paris_p2p.rules.places import MAX_RUNS, Place, gives_way, idle, refusal
from paris_p2p.run_file import RUN_FILE
from paris_p2p.shown import say
from paris_p2p.spec import PeerSettings, RunSpec, open_run
from paris_p2p.swarm.addresses import network_of

log = logging.getLogger(__name__)
MAX_HEARD = 4 * MAX_RUNS
MAX_HEARD_OF_ONE = 16  # runs waiting to be joined that one signer named
MAX_ASKED = 8  # for RunSpecs at once, for one of each signer: whoever is silent holds up nobody else
MAX_ASKED_OF_NETWORK = 4
SPEC_LIMIT_S = 60.0
PERIOD_S = 3.0
REFRESH_S = 60.0  # gossip is a hint: a card told while its maker was cut off is only on the bulletin board


class BootstrapNode:
    """Watches for runs and mirrors them; `mirror` names those it may hold, empty means any (rules/places)."""

    def __init__(self, host: Host, mirror: frozenset[str], say: Callable[[str], None]):
        self.host, self.mirror, self.say = host, mirror, say
        self.runs: dict[str, RunNode] = {}
        self.heard: dict[str, str] = {}  # run id -> a peer that may have its RunSpec
        self.places: dict[str, Place] = {}  # by run id, also of runs that are just being opened
        self._asked: dict[str, tuple[str, str]] = {}  # run id -> the peer that is asked, its address
        self._joining: dict[str, asyncio.Task[None]] = {}  # by run id
        self._opened: dict[str, AsyncExitStack] = {}  # what leaving a run closes
        self._turn = asyncio.Lock()  # no run is left while something is done for it
        self._announced: dict[str, float] = {}
        self._refreshed: dict[str, float] = {}
        self._copies = Copies()  # by run and slot
        self._full = False

    def notice(self, envelope: Envelope[Any]) -> None:
        """A record our DHT node accepted: its signer takes part in its run."""
        run, signer = envelope.record.run, envelope.signer
        if run in self.places:
            self.places[run] = replace(self.places[run], heard_s=time.time())
            return
        if (
            run in self._joining
            or signer == self.host.identity.peer_id
            or (self.mirror and run not in self.mirror)
        ):
            return
        if run in self.heard:
            if isinstance(envelope.record, PeerRecord) and envelope.record.role == "owner":
                self.heard[run] = signer
        elif list(self.heard.values()).count(signer) < MAX_HEARD_OF_ONE:
            self.heard[run] = signer
            if len(self.heard) > MAX_HEARD:  # whoever takes part says so again
                del self.heard[next(iter(self.heard))]

    async def run(self) -> None:
        """Until cancelled."""
        try:
            self._open_saved()
            while True:
                await self._join_heard()
                for run_id in idle(self.places.values(), time.time()):
                    await self._leave(run_id, "nothing was heard of it for long")
                for node in list(self.runs.values()):
                    node.own.check()
                    async with self._turn:
                        if node.run in self.runs:
                            await self._mirror_or_say(node)
                await asyncio.sleep(PERIOD_S)
        finally:
            await self._stop_tasks()

    def _open_saved(self) -> None:
        """Go on with the runs that were mirrored before this program was started again."""
        for path in sorted((self.host.settings.data_dir / "runs").glob(f"*/{RUN_FILE}")):
            run_id = path.parent.name
            if self.mirror and run_id not in self.mirror:
                continue
            try:
                run = load_spec(self.host.settings.data_dir, run_id)
            except (OSError, ParisError) as error:
                log.warning("%s is not mirrored on: %s", path, error)
                continue
            if run is None:  # damaged: the next peer that tells of the run brings it again
                continue
            peer, network = self._saved_place(run_id) or (run.signer, "")
            self.places[run_id] = self._place(run_id, run.signer, peer, network)
            self._joining[run_id] = asyncio.create_task(self._open_beside(run_id, run))

    def _place_file(self, run_id: str) -> Path:
        """Who brought the run, and from where: without it, all runs of before count as one network's."""
        return self.host.settings.data_dir / "runs" / run_id / "place"

    def _saved_place(self, run_id: str) -> tuple[str, str] | None:
        try:
            peer, network = self._place_file(run_id).read_text().splitlines()
        except (OSError, ValueError):  # of an older version, or damaged
            return None
        return peer, network

    async def _open_beside(self, run_id: str, run: Envelope[RunSpec]) -> None:
        try:
            await self._open(run)
        except Exception:  # this run's fault, or the disk's; the others are mirrored as before
            log.exception("run %s could not be opened", run_id)
            self.places.pop(run_id, None)
        finally:
            del self._joining[run_id]

    async def _join_heard(self) -> None:
        """Begin to join what was heard of, beside the mirroring; who is connected is asked first."""
        networks = await self._networks()
        for run_id, peer in sorted(self.heard.items(), key=lambda item: item[1] not in networks):
            network = networks.get(peer, "")
            asked = list(self._asked.values())
            if reason := refusal(list(self.places.values()), self._place(run_id, "", peer, network)):
                del self.heard[run_id]
                log.info("run %s… gets no place: %s", run_id[:16], reason)
            elif len(asked) < MAX_ASKED and all(peer != other for other, _ in asked):
                if sum(network == where for _, where in asked) >= MAX_ASKED_OF_NETWORK:
                    continue
                del self.heard[run_id]
                self._asked[run_id] = peer, network
                self._joining[run_id] = asyncio.create_task(self._join(run_id, peer))

    async def _networks(self) -> dict[str, str]:
        """The address of each connected peer."""
        try:
            peers = await self.host.swarm.peers()
        except SwarmError:
            return {}
        return {peer.peer_id: network_of(next(iter(peer.addresses), "")) for peer in peers}

    def _place(self, run_id: str, owner: str, peer: str, network: str) -> Place:
        return Place(run_id, owner, "" if run_id in self.mirror else peer, network, time.time())

    async def _join(self, run_id: str, peer: str) -> None:
        try:
            async with asyncio.timeout(SPEC_LIMIT_S):
                data = await self.host.swarm.fetch_spec(peer, run_id)
            run = await asyncio.to_thread(open_run, data, run_id)  # a RunSpec may have half a million values
            network = (await self._networks()).get(peer, "")
            self._asked.pop(run_id)
            place = self._place(run_id, run.signer, peer, network)
            places = list(self.places.values())
            if reason := refusal(places, place):
                log.info("run %s… gets no place: %s", run_id[:16], reason)
                return
            leaving = gives_way(places, place)
            self.places[run_id] = place  # before another run that is joined now counts the places
            if leaving is not None:
                await self._leave(leaving, "its place went to a run of somebody with fewer")
            save_spec(self.host.settings.data_dir, run)
            file = self._place_file(run_id)
            with explained(file):
                write_atomic(file, f"{peer}\n{network}\n")
            await self._open(run)
        except ParisError as error:
            log.info("run %s was not joined through %s: %s", run_id[:16], peer, error)
        except TimeoutError:
            log.info(
                "run %s was not joined through %s: no RunSpec within %.0f s", run_id[:16], peer, SPEC_LIMIT_S
            )
        except Exception:  # this run's fault, or the disk's; the others are mirrored as before
            log.exception("run %s could not be joined", run_id)
        finally:
            self._asked.pop(run_id, None)
            if run_id not in self.runs:
                self.places.pop(run_id, None)
            del self._joining[run_id]

    async def _open(self, run: Envelope[RunSpec]) -> None:
        async with AsyncExitStack() as stack:
            node = await stack.enter_async_context(opened(self.host, run))
            self._opened[run.id] = stack.pop_all()
        self.runs[run.id] = node
        if run.id not in self.places:
            await self._leave(run.id, "its place went to another while it was opened")
            return
        self.say(f"mirroring run {run.record.name!r} ({run.id[:16]}…) of {run.signer}")

    async def _leave(self, run_id: str, why: str) -> None:
        """Mirror a run no longer: its place, its records' room and its blobs' disk are free for others."""
        self.places.pop(run_id, None)
        async with self._turn:
            node, stack = self.runs.pop(run_id, None), self._opened.pop(run_id, None)
            self._copies.stop(run_id)
            if stack is not None:
                await stack.aclose()
            self.host.swarm.leave_run(run_id)
            await asyncio.to_thread(
                shutil.rmtree, self.host.settings.data_dir / "runs" / run_id, ignore_errors=True
            )
            for told in (self._announced, self._refreshed):
                for name in [name for name in told if name.startswith(run_id)]:
                    del told[name]
        if node is not None:
            self.say(f"not mirroring run {node.spec.name!r} ({run_id[:16]}…) any more: {why}")

    async def _mirror_or_say(self, node: RunNode) -> None:
        """One run's fault, or a full disk, ends neither this node nor the other runs."""
        try:
            await self._mirror(node)
        except ParisError as error:
            log.warning("run %s… was not mirrored this time: %s", node.run[:16], error)
        except Exception:
            log.exception("run %s could not be mirrored this time", node.run)

    async def _mirror(self, node: RunNode) -> None:
        """Pull what is missing of the run's data and tips; within the cap, newest first."""
        now = time.monotonic()
        tips = sum(node.board.tip(slot) is not None for slot in node.spec.slots)
        if node.run in self.places:  # it may be waiting to be left
            self.places[node.run] = replace(self.places[node.run], tips=tips)
        self._copies.want(
            node.run, node.run, partial(self._hold, node, list(node.spec.data_blobs), node.run, now)
        )
        for slot in node.spec.slots:
            tip = node.board.tip(slot)
            if tip is not None:
                refs = [tip.card.record.weights, tip.card.record.resume]
                self._copies.want(
                    node.run + slot, tip.card.id, partial(self._hold, node, refs, tip.card.id, now)
                )
                node.keep_good(tip.card.record)
        await node.forget_superseded()
        try:
            if now - self._announced.get(node.run + "peer", -1e9) > HOLDER_LIFETIME_S / 6:
                self._announced[node.run + "peer"] = now
                await node.announce_peer("bootstrap")
            if now - self._refreshed.get(node.run, -1e9) > max(
                PERIOD_S, min(REFRESH_S, node.spec.timing.checkpoint_s)
            ):
                self._refreshed[node.run] = now
                await node.refresh()
        except SwarmError as error:
            log.info("the swarm does not answer about %s: %s", node.run[:16], error)

    async def _stop_tasks(self) -> None:
        tasks = list(self._joining.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, self._copies.close(), return_exceptions=True)
        for run_id in reversed(list(self._opened)):
            await self._opened.pop(run_id).aclose()

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
    settings: PeerSettings,
    bootstrap_peers: tuple[str, ...],
    mirror: frozenset[str],
    ready: Callable[[tuple[str, ...]], None],
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
