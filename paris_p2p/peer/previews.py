"""A node that shows how its run comes on: after each set of tips it makes clips of the run's fixed prompts,
with the same noise, and keeps some of all times (docs/owners.md, "How do people see the model grow?").

    previews/20261127-101500-ab12cd34/   clip-000.gif, …, set.json
    previews/cost.json                   what they cost so far
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from paris_p2p.disk import explained, make_directory, write_atomic
from paris_p2p.doctor.graphics import torch_apart
from paris_p2p.envelope import Envelope
from paris_p2p.errors import DeviceError, ParisError, TrainError
from paris_p2p.node.generator import fetched_slot, generating_set
from paris_p2p.node.preview_sets import COST_FILE, SET_FILE, PreviewSet, preview_sets, previews_folder
from paris_p2p.node.run_node import RunNode
from paris_p2p.peer.preview_child import PreviewJob, PreviewMade
from paris_p2p.peer.process import Worker
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.records import CardRecord
from paris_p2p.rules.preview_turn import (
    PreviewCost,
    are_new,
    machine_cost_s,
    next_preview_s,
    sets_to_drop,
)
from paris_p2p.swarm.asking import end_tasks

log = logging.getLogger(__name__)
_CHILD = "paris_p2p.peer.preview_child"
_LOOK_S = 15.0
_AGAIN_S = 900.0  # after a failure
_LIMIT_S = 3600.0  # for one set
Cards = dict[str, Envelope[CardRecord]]


class Previewer:
    """Makes previews of one run now and then; the clock and the process are arguments for tests."""

    def __init__(
        self,
        node: RunNode,
        least_s: float,
        *,
        device: str = "cpu",
        say: Callable[[str], None] = log.info,
        make_worker: Callable[[str], Worker] = Worker,
        clock: Callable[[], float] = time.time,
    ):
        self.node, self.least_s, self.device, self.say = node, least_s, device, say
        self._make_worker, self._clock = make_worker, clock
        self.folder = previews_folder(node.host.settings.data_dir)
        self.cost = _read_cost(self.folder)

    async def run(self) -> None:
        """Looks again and again until cancelled."""
        while True:
            wait_s = _LOOK_S
            try:
                await self.look()
            except ParisError as error:
                self.say(f"no previews this time: {error}")
                wait_s = _AGAIN_S
            except Exception:
                log.exception("no previews this time")
                wait_s = _AGAIN_S
            await asyncio.sleep(wait_s)

    async def look(self) -> PreviewSet | None:
        """Makes a set where one is due, and returns it."""
        spec, now_s = self.node.spec, self._clock()
        if not spec.previews or now_s < next_preview_s(self.cost, self.least_s, now_s):
            return None
        spec, cards = generating_set(self.node)
        tips = {slot: card.id for slot, card in cards.items()}
        sets = await asyncio.to_thread(preview_sets, self.folder)
        shown = dict(sets[-1].cards) if sets and sets[-1].prompts == spec.previews else {}
        if any(slot not in tips for slot in spec.slots) or not are_new(tips, shown, self._moving(spec.slots)):
            return None
        return await self._make(cards, now_s)

    def _moving(self, slots: tuple[str, ...]) -> list[str]:
        """Returns the slots that somebody still trains: those that are not done; all, where all are."""
        total = self.node.spec.training.total_steps
        tips = {slot: self.node.board.tip(slot) for slot in slots}
        moving = [slot for slot, tip in tips.items() if not (tip and 0 < total <= tip.card.record.steps)]
        return moving or list(slots)

    async def _make(self, cards: Cards, now_s: float) -> PreviewSet:
        name = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now_s)) + f"-{os.urandom(4).hex()}"
        out = self.folder / f".{name}"
        with explained(self.folder):
            make_directory(self.folder)
            _sweep(self.folder)
        self._note_cost(now_s, 0.0)  # a set that kills this node is not tried again at once
        began_s = time.monotonic()
        made = PreviewMade(error="it was killed")
        try:
            made = await self._ask_child(cards, out)
            if made.error:
                raise TrainError(made.error)
            record = self._record(name, cards, now_s, made)
            with explained(out):
                write_atomic(out / SET_FILE, record.model_dump_json())
                out.rename(self.folder / name)
        finally:
            elapsed_s = made.elapsed_s or time.monotonic() - began_s
            processor_s = made.processor_s or elapsed_s  # of one thread, where it did not tell
            on_gpu = self.device != "cpu" and await asyncio.to_thread(_is_gpu)
            self._note_cost(now_s, machine_cost_s(processor_s, elapsed_s, os.cpu_count() or 1, on_gpu=on_gpu))
            shutil.rmtree(out, ignore_errors=True)
        self._thin()
        self.say(f"made {len(made.files)} previews in {elapsed_s:.0f} s: {self.folder / name}")
        return record

    async def _ask_child(self, cards: Cards, out: Path) -> PreviewMade:
        """Runs the process that makes the clips, with plain files of all that it needs."""
        node = self.node
        async with AsyncExitStack() as stack:
            slots = list(cards)
            slot_of = {slot: fetched_slot(cards[slot]) for slot in slots}
            weights: dict[str, Path] = {}
            for slot in slots:
                reading = node.readable([slot_of[slot].weights], slot_of[slot].card, f"preview {slot}")
                (weights[slot],) = await stack.enter_async_context(reading)
            models: dict[str, dict[str, Path]] = {}
            for name, pinned in (("codec", node.spec.codec), ("text", node.spec.text)):
                refs = list(pinned.files.values())
                reading = node.readable(refs, node.run, f"preview {name}")
                models[name] = dict(zip(pinned.files, await stack.enter_async_context(reading), strict=True))
            spec, _ = generating_set(node)
            job = PreviewJob(
                run=node.run,
                spec_path=node.spec_file,
                effective=None if spec == node.signed_spec else spec,
                weights=weights,
                cards={slot: one.card for slot, one in slot_of.items()},
                behind={slot: one.behind for slot, one in slot_of.items() if one.behind},
                codec=models["codec"],
                text=models["text"],
                prompts=node.spec.previews,
                device=self.device,
                out=out,
            )
            return await self._answer(job)

    async def _answer(self, job: PreviewJob) -> PreviewMade:
        worker = self._make_worker(_CHILD)
        try:
            await worker.start(job, nice=19)
            async with asyncio.timeout(_LIMIT_S):
                line = await anext(worker.lines(), b"")
            return PreviewMade.model_validate_json(line)
        except (ValidationError, TimeoutError) as error:
            words = " / ".join(list(worker.last_words)[-3:])
            raise TrainError(f"the process of the previews ended without any: {words or error}") from error
        finally:
            await worker.kill()

    def _record(self, name: str, cards: Cards, now_s: float, made: PreviewMade) -> PreviewSet:
        records = {slot: card.record for slot, card in cards.items()}
        return PreviewSet(
            name=name,
            at_s=now_s,
            prompts=self.node.spec.previews,
            files=made.files,
            cards={slot: card.id for slot, card in cards.items()},
            seqs={slot: record.seq for slot, record in records.items()},
            steps={slot: record.steps for slot, record in records.items()},
            clips={slot: record.clips for slot, record in records.items()},
            processor_s=made.processor_s,
            elapsed_s=made.elapsed_s,
        )

    def _note_cost(self, begun_at_s: float, cost_s: float) -> None:
        since_s = self.cost.since_s or begun_at_s
        total_s = self.cost.total_cost_s + cost_s
        self.cost = PreviewCost(begun_at_s, cost_s, total_s, since_s)
        with explained(self.folder):
            write_atomic(self.folder / COST_FILE, json.dumps(asdict(self.cost)), durable=False)

    def _thin(self) -> None:
        sets = preview_sets(self.folder)
        for place in sets_to_drop([one.at_s for one in sets], self._clock()):
            shutil.rmtree(self.folder / sets[place].name, ignore_errors=True)


@asynccontextmanager
async def previewing(
    node: RunNode, minutes: float, device: str, say: Callable[[str], None]
) -> AsyncIterator[None]:
    """Makes previews beside the block, at most every so many minutes; 0: none."""
    if not minutes:
        yield
        return
    task = asyncio.create_task(Previewer(node, minutes * 60.0, device=device, say=say).run())
    try:
        yield
    finally:
        await end_tasks([task])


def preview_device(role: str, settings: PeerSettings) -> str:
    """Returns where previews are made: the owner's node uses what it attests with, others their processor,
    since their GPU trains.
    """
    return settings.device if role == "owner" else "cpu"


def _is_gpu() -> bool:
    """Tells whether `auto`, or a device with a number, is a GPU here; a process of its own loads torch."""
    try:
        return bool(torch_apart().devices)
    except DeviceError:
        return False


def _read_cost(folder: Path) -> PreviewCost:
    """Returns what was noted before a restart; nothing of a file that is damaged."""
    try:
        raw: Any = json.loads((folder / COST_FILE).read_text())
        return PreviewCost(**{name: float(value) for name, value in raw.items()})
    except (OSError, ValueError, TypeError, AttributeError):
        return PreviewCost()


def _sweep(folder: Path) -> None:
    """Deletes what a killed process left."""
    for left in folder.glob(".*"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
