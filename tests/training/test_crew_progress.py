"""What a member is ahead of its base: nothing of it is lost or counted twice, whatever becomes of updates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from paris_p2p.training.crew_messages import RoundFiles, UpdateFile
from paris_p2p.training.crew_progress import CrewProgress, Sent, Work
from paris_p2p.updates.compression import Precision
from paris_p2p.updates.layout import CHUNK_ENTRIES, Vector
from paris_p2p.updates.outer_step import Contribution, OuterRates, OuterState, outer_step
from paris_p2p.updates.update_file import Update
from paris_p2p.updates.update_header import UpdateHeader
from tests.made.made_crew import card_id, peer_of

N = 3 * CHUNK_ENTRIES + 100
ME, OTHER = peer_of(0), peer_of(1)
RATES = OuterRates(0.7, 0.9, 0.999)


class Life:
    """Is one member's life on bases that plain rounds make, where all that anybody did can be added up."""

    def __init__(self, folder: Path, seed: int, step: float, parts: int):
        self.folder, self.step, self.parts = folder, step, parts
        self.random = np.random.default_rng(seed)
        self.base = OuterState(self.draw(1), self.draw(0), self.draw(1), steps=0, clips=0)
        self.progress = CrewProgress(self.base, ME)
        self.weights = self.base.weights.copy()
        self.right = self.weights.astype(np.float64)  # where it would be with all of everybody's work
        self.clip = self.made = self.merged_steps = 0

    def draw(self, scale: float) -> Vector:
        return (scale * self.random.standard_normal(N)).astype(np.float32)

    def train(self) -> None:
        step = self.draw(0.1)
        self.weights += step
        self.right += step
        self.progress.note(Work(self.clip, 1, 4, 1.0, 1))
        self.clip += 4

    def publish(self) -> Sent | None:
        if not self.progress.unsent.steps:
            return None
        self.made += 1
        header = UpdateHeader(N, self.parts, self.made % self.parts)
        self.progress.settle(self.weights)
        precision = Precision(self.step, 1.0)
        return self.progress.publish(self.weights, header, precision, self.folder / f"{self.made}")

    def others(self) -> RoundFiles:
        """Merges another's update, all by itself."""
        other = CrewProgress(self.base, OTHER)
        path = self.folder / f"other-{self.clip}-{self.made}"
        precision = Precision(self.step, 1.0)
        update = other.publish(self.base.weights + self.draw(0.1), UpdateHeader(N), precision, path).update
        before = self.base.weights.astype(np.float64)
        made = self._merge(OTHER, update, Work(0, 1, 4))
        self.right += self.base.weights.astype(np.float64) - before
        return made

    def mine(self, sent: Sent) -> RoundFiles:
        self.merged_steps += sent.work.steps
        return self._merge(ME, sent.update, sent.work)

    def _merge(self, signer: str, update: Update, work: Work) -> RoundFiles:
        before = self.base.steps, self.base.clips
        one = Contribution(signer, update, 1.0, 1.0, work.steps, work.clips)
        outer_step(self.base, [one], RATES)
        file = UpdateFile(
            update=card_id(signer, work.first_clip, work.clips),
            signer=signer,
            path=Path("unused"),
            steps=work.steps,
            clips=work.clips,
            first_clip=work.first_clip,
        )
        counts = dict(zip(("steps_before", "clips_before"), before, strict=True))
        after = {"steps": self.base.steps, "clips": self.base.clips}
        return RoundFiles(**counts, **after, full=False, merged=card_id(self.base.steps), updates=(file,))

    def found(self) -> Vector:
        """Returns the base and all that this member is ahead of it."""
        waiting = np.zeros(N, np.float64)
        for one in self.progress.waiting:
            blank = np.zeros(N, np.float32)
            rates = OuterRates(1.0, 0.0, 0.0)
            state = OuterState(blank, blank.copy(), blank.copy(), 0, 0)
            outer_step(state, [Contribution(ME, one.update, 1.0, 1.0, 1, 1)], rates)
            waiting += state.weights
        ahead = self.weights.astype(np.float64) - self.progress.reference - self.progress.error
        return np.asarray(self.base.weights + ahead + waiting, np.float64)

    def check(self) -> None:
        assert np.abs(self.found() - self.right).max() < 1e-4


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("step", "parts"), [(1.0, 1), (2.0, 1), (2.0, 3), (5.0, 2)])
def test_nothing_is_lost_or_counted_twice_whatever_becomes_of_updates(
    tmp_path: Path, seed: int, step: float, parts: int
) -> None:
    life = Life(tmp_path, seed, step, parts)
    for _ in range(25):
        for _ in range(int(life.random.integers(0, 3))):
            life.train()
        life.publish()
        life.check()
        waiting = life.progress.waiting
        rounds = [life.others() for _ in range(int(life.random.integers(0, 2)))]
        choices: list[Sent] = [each for one in waiting for each in (*one.earlier, one)]
        if choices and life.random.random() < 0.6:
            rounds.append(life.mine(choices[int(life.random.integers(len(choices)))]))
        life.progress.adopt(life.weights, life.base, rounds, "waits")
        life.check()


def test_a_lead_alone_keeps_its_weights_and_its_base_follows(tmp_path: Path) -> None:
    life = Life(tmp_path, seed=1, step=2.0, parts=1)
    distances = []
    for _ in range(12):
        life.train()
        before = life.weights.copy()
        sent = life.publish()
        assert sent is not None
        life.progress.adopt(life.weights, life.base, [life.mine(sent)], "merged")
        assert np.array_equal(life.weights, before)
        assert not life.progress.error.any()
        assert np.array_equal(life.progress.reference, life.base.weights)
        distances.append(float(np.linalg.norm(life.weights - life.base.weights)))
    assert max(distances[6:]) < 2 * float(np.linalg.norm(life.draw(0.1)))
    assert life.merged_steps == life.base.steps == 12


def test_a_refused_update_resets_weights_memory_and_what_is_ahead(tmp_path: Path) -> None:
    life = Life(tmp_path, seed=2, step=5.0, parts=1)
    life.train()
    life.publish()
    life.train()
    assert life.progress.adopt(life.weights, life.base, [life.others()], "lost")
    assert np.array_equal(life.weights, life.base.weights)
    assert not life.progress.error.any()
    assert life.progress.ahead == Work(first_clip=8)


def test_an_update_holds_the_work_of_one_that_still_waits(tmp_path: Path) -> None:
    life = Life(tmp_path, seed=3, step=2.0, parts=1)
    life.train()
    first = life.publish()
    life.progress.adopt(life.weights, life.base, [life.others()], "waits")
    life.train()
    second = life.publish()
    assert first is not None
    assert second is not None
    assert (second.work.first_clip, second.work.steps, second.work.clips) == (0, 2, 8)
    life.progress.adopt(life.weights, life.base, [life.others(), life.mine(first)], "lost")
    assert life.progress.waiting == ()
    assert (life.progress.unsent.first_clip, life.progress.unsent.steps) == (4, 1)
    life.check()


def test_of_a_whole_basis_the_nodes_word_counts(tmp_path: Path) -> None:
    for own, steps in (("merged", 1), ("waits", 2)):
        life = Life(tmp_path, seed=4, step=2.0, parts=1)
        life.train()
        life.publish()
        life.train()
        life.progress.adopt(life.weights, life.base, (), own)  # type: ignore[arg-type]
        assert life.progress.ahead.steps == steps


def test_weights_that_no_step_changed_make_no_update(tmp_path: Path) -> None:
    life = Life(tmp_path, seed=3, step=2.0, parts=1)
    life.progress.note(Work(0, 1, 4, 0.0, 1))
    assert life.progress.is_unchanged(life.weights)
    life.weights[-1] += 1
    assert not life.progress.is_unchanged(life.weights)
