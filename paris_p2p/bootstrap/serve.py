"""An operator's node: entry point, relay, store and forward (docs/architecture.md).

It learns of runs from the records its own DHT node is given, asks their signers for the RunSpec, and then
holds every tip within its disk cap, so that two peers behind NAT exchange checkpoints through it. It imports
no torch of its own.
"""

from __future__ import annotations

import asyncio
import logging
import math
import shutil
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from paris_p2p.bootstrap.config import FORGET_ENDED_S
from paris_p2p.bootstrap.forgotten import ForgottenRuns
from paris_p2p.bootstrap.heard_runs import HeardRuns
from paris_p2p.bootstrap.mirror import REFRESHED_AT_ONCE, FullDisk, Mirror
from paris_p2p.disk import explained, write_atomic
from paris_p2p.envelope import Envelope
from paris_p2p.errors import ParisError, SwarmError
from paris_p2p.node.host import Host, load_spec, save_spec
from paris_p2p.node.run_node import RunNode, opened
from paris_p2p.rules.places import RunPlace, idle, idle_in_s, leaves_for, refusal
from paris_p2p.run_file import RUN_FILE
from paris_p2p.shown import shown
from paris_p2p.spec import RunSpec, open_run
from paris_p2p.swarm.addresses import network_of

log = logging.getLogger(__name__)
_SPEC_LIMIT_S = 60.0
_PAUSE_S = 1.0  # between two looks at what was heard, however much that is
_MEMBERS_ONLY = (
    "; a run for members only tells its members alone: this node is its entry point, and mirrors none of it"
)


class BootstrapNode:
    """Joins runs that it hears of, and mirrors each in a task of its own; `only` names those it may hold,
    empty means any (rules/places.py). It forgets a run `forget_ended_s` after it heard that its owner
    ended it.
    """

    def __init__(
        self,
        host: Host,
        only: frozenset[str],
        say: Callable[[str], None],
        *,
        forget_ended_s: float = FORGET_ENDED_S,
    ):
        self.host, self.only, self.say, self.forget_ended_s = host, only, say, forget_ended_s
        self.forgotten = ForgottenRuns(host.settings.data_dir / "forgotten-runs")
        self.runs: dict[str, RunNode] = {}
        self.heard = HeardRuns()
        self.places: dict[str, RunPlace] = {}  # by run id, also of runs that are just being opened
        self._ended_s: dict[str, float] = {}  # by run id: when its end was heard (monotonic)
        self._joining: dict[str, asyncio.Task[None]] = {}  # by run id
        self._mirrors: dict[str, asyncio.Task[None]] = {}  # by run id
        self._leaving: set[str] = set()  # run ids, until their folders are gone
        self._opened: dict[str, AsyncExitStack] = {}  # what leaving a run closes
        self._disk, self._turns = FullDisk(say), asyncio.Semaphore(REFRESHED_AT_ONCE)
        self._news = asyncio.Event()  # a run was heard of, or a task ended

    def notice(self, envelope: Envelope[Any]) -> None:
        """Takes note of a record that this DHT node accepted: its signer takes part in its run."""
        run, signer = envelope.record.run, envelope.signer
        if run in self.places:
            self.places[run] = replace(self.places[run], heard_s=time.monotonic())
            return
        is_own = signer == self.host.identity.peer_id
        if is_own or run in self._joining or run in self._leaving or not self._may_hold(run):
            return
        if self.heard.note(envelope, time.monotonic()):
            self._news.set()

    async def run(self) -> None:
        """Joins, mirrors and leaves runs until cancelled."""
        try:
            self._open_saved()
            while True:
                self._news.clear()
                for task in self._mirrors.values():
                    if task.done():
                        task.result()  # a twin of this node: it stops
                await self._join_heard()
                for run_id in idle(self.places.values(), time.monotonic()):
                    await self._leave_idle(run_id)
                await asyncio.sleep(_PAUSE_S)
                try:
                    async with asyncio.timeout(idle_in_s(self.places.values(), time.monotonic())):
                        await self._news.wait()
                except TimeoutError:
                    pass
        finally:
            await self._stop_tasks()

    def _may_hold(self, run_id: str) -> bool:
        return run_id in self.only or (not self.only and run_id not in self.forgotten)

    def _begin(self, run_id: str, joining: Coroutine[Any, Any, None]) -> None:
        self._joining[run_id] = asyncio.create_task(joining)
        self._joining[run_id].add_done_callback(lambda _: self._news.set())

    def _open_saved(self) -> None:
        """Goes on with the runs that were mirrored before this program was started again."""
        for path in sorted((self.host.settings.data_dir / "runs").glob(f"*/{RUN_FILE}")):
            run_id = path.parent.name
            if not self._may_hold(run_id):
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
            self._begin(run_id, self._open_beside(run_id, run))

    def _place_file(self, run_id: str) -> Path:
        """Returns the file that says who brought the run, and from where: without it, all runs of before
        count as one network's.
        """
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
        """Begins to join what was heard of, beside the mirroring."""
        networks = await self._networks()

        def is_refused(run_id: str, peer: str, network: str) -> bool:
            reason = refusal(list(self.places.values()), self._place(run_id, "", peer, network))
            if reason:
                log.info("run %s… gets no place: %s", run_id[:16], reason)
            return bool(reason)

        for run_id, peer in self.heard.to_ask(networks, is_refused):
            self._begin(run_id, self._join(run_id, peer))

    async def _networks(self) -> dict[str, str]:
        """Returns the address of each connected peer."""
        try:
            peers = await self.host.swarm.peers()
        except SwarmError:
            return {}
        return {peer.peer_id: network_of(next(iter(peer.addresses), "")) for peer in peers}

    def _place(self, run_id: str, owner: str, peer: str, network: str) -> RunPlace:
        return RunPlace(run_id, owner, "" if run_id in self.only else peer, network, time.monotonic())

    def _forgotten_from_s(self, run_id: str, ended_s: float | None) -> float:
        """Returns when a run is forgotten (monotonic) whose end was heard at a Unix time, perhaps before a
        restart: that is read once, and counted on by the monotonic clock. Where the clock was set back since,
        nothing of the time before counts.
        """
        if ended_s is None:
            self._ended_s.pop(run_id, None)
            return math.inf
        passed_s = max(0.0, time.time() - ended_s)
        return self._ended_s.setdefault(run_id, time.monotonic() - passed_s) + self.forget_ended_s

    async def _join(self, run_id: str, peer: str) -> None:
        try:
            await self._ask_and_open(run_id, peer)
        except ParisError as error:
            self._not_joined(run_id, peer, shown(error) + (_MEMBERS_ONLY * isinstance(error, SwarmError)))
        except TimeoutError:
            self._not_joined(run_id, peer, f"no RunSpec within {_SPEC_LIMIT_S:.0f} s")
        except Exception:  # this run's fault, or the disk's; the others are mirrored as before
            log.exception("run %s could not be joined", run_id)
            self.heard.failed(run_id, peer, time.monotonic())
        finally:
            self.heard.answered(run_id)
            if run_id not in self.runs:
                self.places.pop(run_id, None)
            del self._joining[run_id]

    def _not_joined(self, run_id: str, peer: str, why: str) -> None:
        """Notes that a run was asked of a peer in vain; the first time of a run it is said."""
        is_first = self.heard.failed(run_id, peer, time.monotonic())
        log.log(
            logging.INFO if is_first else logging.DEBUG,
            "run %s… was not joined through %s, and is asked for again now and then: %s",
            run_id[:16],
            peer,
            why,
        )

    async def _ask_and_open(self, run_id: str, peer: str) -> None:
        async with asyncio.timeout(_SPEC_LIMIT_S):
            data = await self.host.swarm.fetch_spec(peer, run_id)
        run = await asyncio.to_thread(open_run, data, run_id)  # a RunSpec may have half a million values
        network = (await self._networks()).get(peer, "")
        self.heard.answered(run_id)
        self._news.set()  # another may be asked while this one is opened
        place = self._place(run_id, run.signer, peer, network)
        places = list(self.places.values())
        if reason := refusal(places, place):
            self._not_joined(run_id, peer, f"it gets no place: {reason}")
            return
        leaving = leaves_for(places, place)
        self.places[run_id] = place  # before another run that is joined now counts the places
        if leaving is not None:
            await self._leave(leaving, "its place went to a run of somebody with fewer")
        save_spec(self.host.settings.data_dir, run)
        file = self._place_file(run_id)
        with explained(file):
            write_atomic(file, f"{peer}\n{network}\n")
        await self._open(run)

    async def _open(self, run: Envelope[RunSpec]) -> None:
        async with AsyncExitStack() as stack:
            node = await stack.enter_async_context(opened(self.host, run))
            self._opened[run.id] = stack.pop_all()
        self.runs[run.id] = node
        if run.id not in self.places:
            await self._leave(run.id, "its place went to another while it was opened")
            return

        def known(tips: int, ended_s: float | None) -> None:
            if (place := self.places.get(run.id)) is None:  # it waits to be left
                return
            forgotten_from_s = self._forgotten_from_s(run.id, ended_s)
            if forgotten_from_s != place.forgotten_from_s:
                self._news.set()
            self.places[run.id] = replace(place, tips=tips, forgotten_from_s=forgotten_from_s)

        self._mirrors[run.id] = asyncio.create_task(Mirror(node, self._disk, self._turns, known).run())
        self._mirrors[run.id].add_done_callback(lambda _: self._news.set())
        self.say(f"mirroring run {run.record.name!r} ({run.id[:16]}…) of {run.signer}")

    async def _leave_idle(self, run_id: str) -> None:
        """Leaves a run whose time here is over, for good where its owner ended it."""
        if not self.places[run_id].is_over(time.monotonic()):
            await self._leave(run_id, "nothing was heard of it for long")
            return
        self.forgotten.add(run_id)
        await self._leave(run_id, "its owner ended it")

    async def _leave(self, run_id: str, why: str) -> None:
        """Mirrors a run no longer: its place, its records' room and its blobs' disk are free for others."""
        self._leaving.add(run_id)
        self.places.pop(run_id, None)
        self._ended_s.pop(run_id, None)
        node, stack = self.runs.pop(run_id, None), self._opened.pop(run_id, None)
        try:
            if (mirror := self._mirrors.pop(run_id, None)) is not None:
                mirror.cancel()
                await asyncio.gather(mirror, return_exceptions=True)
            if stack is not None:
                await stack.aclose()
            self.host.swarm.leave_run(run_id)
            folder = self.host.settings.data_dir / "runs" / run_id
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        finally:
            self._leaving.discard(run_id)
        if node is not None:
            self.say(f"not mirroring run {node.spec.name!r} ({run_id[:16]}…) any more: {why}")

    async def _stop_tasks(self) -> None:
        tasks = [*self._joining.values(), *self._mirrors.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for run_id in reversed(list(self._opened)):
            await self._opened.pop(run_id).aclose()
