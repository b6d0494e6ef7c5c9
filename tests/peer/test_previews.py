"""Previews: real clips in a process of their own, once every slot has a new tip, and never too often."""

from __future__ import annotations

import shutil
import time
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import BaseModel

from paris_p2p.cli.preview_sheet import draw_sheet
from paris_p2p.envelope import Envelope
from paris_p2p.errors import TrainError, UsageError
from paris_p2p.identity import Identity
from paris_p2p.node.preview_sets import preview_sets
from paris_p2p.node.run_node import RunNode, opened
from paris_p2p.owner_records import Extend
from paris_p2p.peer.preview_child import PreviewJob, PreviewMade
from paris_p2p.peer.previews import Previewer
from paris_p2p.records import BlobRef, CardRecord
from paris_p2p.spec import GateSpec, Pinned, RunSpec, sign_run
from paris_p2p.swarm.fake import FakeNetwork
from tests.made.made_run import MadeRun, ref_of
from tests.made.owner_home import host_at
from tests.rules.made import A, D, attest, card
from tests.rules.made_notices import OWNER, chain_of, made_run

PROMPTS = ("a red ball", "rolls")


class FakeChild:
    """Answers as the process does, with a clip of one grey for each prompt; or dies."""

    dies = False

    def __init__(self, module: str):
        self.last_words = deque(["it was killed"])
        self.is_gone = False

    async def start(self, job: BaseModel, *, nice: int = 0) -> None:
        assert nice == 19
        self.job = PreviewJob.model_validate(job.model_dump())

    async def lines(self) -> AsyncIterator[bytes]:
        if self.dies:
            return
        self.job.out.mkdir(parents=True)
        names = tuple(f"clip-{number:03}.gif" for number in range(len(self.job.prompts)))
        for name in names:
            Image.new("RGB", (24, 16), (90, 90, 90)).save(self.job.out / name)
        made = PreviewMade(files=names, processor_s=40.0, elapsed_s=60.0)
        yield made.to_line().encode()

    async def kill(self, *, grace_s: float = 0.0) -> None:
        self.is_gone = True


class Story:
    """A run of whose slots a node hears new tips."""

    def __init__(self, node: RunNode, run: Envelope[RunSpec], weights: dict[str, BlobRef]):
        self.node, self.run, self.weights = node, run, weights
        self.cards: dict[str, Envelope[CardRecord]] = {}

    def tip(self, *slots: str) -> None:
        now_s = time.time()
        for slot in slots:
            head = {"run": self.run.id, "slot": slot, "issued_at": now_s - 60, "expires_at": now_s + 9e4}
            before = self.cards.get(slot)
            self.cards[slot] = card(A, before, **head, weights=self.weights[slot])
            self.node.keep(self.cards[slot])
            self.node.keep(attest(D, self.cards[slot], **head))


async def test_clips_are_made_in_a_process_when_every_slot_has_a_tip(tmp_path: Path) -> None:
    made = MadeRun(tmp_path / "made")
    text = {path.name: ref_of(path) for path in made.text_folder.iterdir()}
    pinned = made.spec.text.model_copy(update={"files": text})
    spec = made.spec.model_copy(update={"text": pinned, "previews": PROMPTS, "created_at": time.time() - 1e5})
    run = sign_run(Identity.from_private_bytes(bytes(32)), spec)
    made.run = run.id
    made.weights = {slot: made._write_weights(slot) for slot in spec.slots}
    async with opened(host_at(tmp_path / "node", FakeNetwork()), run) as node:
        store = node.host.store
        weights = {slot: store.add_file(path) for slot, path in made.weights.items()}
        for path in (*made.codec_folder.iterdir(), *made.text_folder.iterdir()):
            store.add_file(path)
        story = Story(node, run, weights)
        previewer = Previewer(node, 60.0)
        story.tip("router")
        assert await previewer.look() is None
        story.tip(*(slot for slot in spec.slots if slot != "router"))
        found = await previewer.look()
        assert found is not None
        assert await previewer.look() is None
    (kept,) = preview_sets(tmp_path / "node" / "previews")
    assert kept == found
    assert kept.cards == {slot: one.id for slot, one in story.cards.items()}
    assert kept.processor_s > 0
    assert [path.name[0] for path in (tmp_path / "node" / "previews").iterdir() if path.is_dir()] != ["."]
    with Image.open(tmp_path / "node" / "previews" / kept.name / kept.files[0]) as clip:
        assert (clip.size, clip.n_frames) == ((24, 16), 3)
    assert draw_sheet(tmp_path / "node" / "previews", tmp_path / "sheet.png").startswith("wrote")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size[1] > 2 * 16


async def test_sets_wait_their_time_cost_and_tips_and_follow_the_owners_prompts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    codec = Pinned(name="pca", files={})
    run = made_run(created_at=time.time() - 1e5, codec=codec, text=codec, gate=GateSpec())
    now = [time.time()]
    async with opened(host_at(tmp_path / "node", FakeNetwork()), run) as node:
        file = tmp_path / "weights"
        file.write_text("weights")
        weights = dict.fromkeys(run.record.slots, node.host.store.add_file(file))
        story = Story(node, run, weights)

        def previewer(**more: Any) -> Previewer:
            return Previewer(node, 60.0, make_worker=FakeChild, clock=lambda: now[0], **more)  # type: ignore[arg-type]

        story.tip(*run.record.slots)
        assert await previewer().look() is None  # the run has no prompts
        for notice in chain_of(run.id, [Extend(previews=PROMPTS)], OWNER, at_s=time.time() - 50):
            node.keep(notice)
        assert node.spec.previews == PROMPTS
        assert node.spec.training == run.record.training
        first = await previewer().look()
        assert first is not None
        story.tip("expert-0", "router")
        now[0] += 1e5
        assert await previewer().look() is None  # expert-1 is as it was
        story.tip("expert-1")
        now[0] -= 1e5 - 999  # 40 s of two processors are 2 % of 1,000 s
        assert await previewer().look() is None
        now[0] += 2
        monkeypatch.setattr(FakeChild, "dies", True)
        with pytest.raises(TrainError, match="it was killed"):
            await previewer().look()
        assert await previewer().look() is None  # and it is not tried at once again
        monkeypatch.setattr(FakeChild, "dies", False)
        now[0] += 1e5
        second = await previewer().look()
        assert second is not None
        assert second.prompts == PROMPTS
    folder = tmp_path / "node" / "previews"
    assert [one.name for one in preview_sets(folder)] == [first.name, second.name]
    (folder / second.name / "set.json").write_text("{}")
    assert [one.name for one in preview_sets(folder)] == [first.name]
    shutil.rmtree(folder)
    with pytest.raises(UsageError, match="there are no previews"):
        draw_sheet(folder, tmp_path / "sheet.png")
