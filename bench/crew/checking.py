"""Decides which updates of a round count, with the very checks that a lead's trainer has.

Each update becomes a file; a network of the product's own is lent to trials on clips.
Legend: n parameters.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from bench.bare_run import bare_run
from bench.crew.clips_seen import open_split
from bench.crew.plans import TRAINING, Plan
from bench.crew.sending import Sent, dense
from paris_p2p.crew_records import MAX_LATE, SCALE_ONE, CrewSpec
from paris_p2p.data.prepared import Prepared
from paris_p2p.device import Device
from paris_p2p.errors import UpdateFormatError
from paris_p2p.model.plain_dit import PlainVideoDiT
from paris_p2p.rules.rounds import lengths_for_steps, update_scales, weighed_clips, weight
from paris_p2p.spec import NetworkSpec
from paris_p2p.training.crew_messages import UpdateFile
from paris_p2p.training.round_merge import CrewSlot
from paris_p2p.training.update_checks import Judged, judge_copies, judge_form, judge_norms
from paris_p2p.training.update_trials import LEAST_CLIPS, MOST_CLIPS, Trials
from paris_p2p.updates.layout import Vector
from paris_p2p.updates.outer_step import Contribution
from paris_p2p.updates.update_file import Update


@dataclass(frozen=True)
class Counting:
    """Is one update that counts, opened."""

    sent: Sent
    q: Vector  # [n]
    update: Update | None
    norm: float


class LeadsNetwork:
    """Stands for the trainer of a crew's lead, as far as trials ask for it."""

    def __init__(self, plan: Plan, network: PlainVideoDiT, folder: Path):
        prepared = Prepared.load(folder)
        numbers = {name: value for name, value in network.config.items() if not name.startswith("_")}
        spec = bare_run(
            prepared.latent,
            prepared.text_shape,
            experts=prepared.experts,
            expert=NetworkSpec(preset="bench", config=numbers),
            training=TRAINING,
        )
        crew = CrewSpec(step=plan.step, parts=plan.parts)
        self.crew_slot = CrewSlot.of(plan.run, plan.slot, spec, crew)
        self.learner = SimpleNamespace(network=network, device=Device(torch.device("cpu"), bf16=False))
        self.base = SimpleNamespace(weights=np.zeros(self.crew_slot.parameters, np.float32))
        self.card = ""

    def weights(self) -> Vector:
        """Returns nothing that counts: nobody trains this network."""
        return self.base.weights

    @torch.no_grad()
    def put(self, vector: Vector) -> None:
        named = dict(self.learner.network.named_parameters())
        for name, shape, start, end in self.crew_slot.layout.spans():
            named[name].copy_(torch.from_numpy(vector[start:end].reshape(shape)))


@dataclass
class Checks:
    """Remembers what a lead remembers; without a `lead` nothing but an update's form and age is looked at."""

    lead: Any = None  # a LeadsNetwork
    trials: Trials | None = None
    own: str = ""  # the lead's name, which believes itself
    usual: float = 0.0  # median norm of the round before
    refused: list[tuple[str, str]] = field(default_factory=list)

    @classmethod
    def of(cls, plan: Plan, network: PlainVideoDiT, folder: Path, own: str) -> Checks:
        """Returns the checks of a plan's lead."""
        lead: Any = LeadsNetwork(plan, network, folder)
        train, gate = open_split(folder, plan.slot, ("train",)), open_split(folder, plan.slot, ("gate",))
        return cls(lead, Trials(lead, train, gate, notices=0), own)

    def sift(self, base: Vector, sent: Sequence[Sent], number: int) -> list[Counting]:
        """Returns what counts, by signer, and tells in `refused` what does not."""
        self.refused += [(one.maker, "stale") for one in sent if number - one.number > MAX_LATE]
        fresh = [one for one in sent if number - one.number <= MAX_LATE]
        if self.lead is not None:
            fresh = self._judged(base, fresh, number)
        counting = [one for each in fresh if (one := self._opened(each, len(base))) is not None]
        if counting:
            self.usual = median(_lengths(counting))
        return sorted(counting, key=lambda one: one.sent.maker)

    def _opened(self, sent: Sent, parameters: int) -> Counting | None:
        if sent.exact is not None:
            return Counting(sent, sent.exact, None, float(np.linalg.norm(sent.exact.astype(np.float64))))
        try:
            update = Update.from_bytes(sent.data, parameters)
        except UpdateFormatError:
            self.refused.append((sent.maker, "format"))
            return None
        return Counting(sent, dense(sent.data, parameters), update, update.norm)

    def _judged(self, base: Vector, sent: Sequence[Sent], number: int) -> list[Sent]:
        """Returns what all of the product's checks leave."""
        self.lead.base.weights, self.lead.card = base, sha256(f"card {number}".encode()).hexdigest()
        with tempfile.TemporaryDirectory() as folder:
            by_id = {}
            for place, one in enumerate(sent):
                path = Path(folder) / f"{place}.paris"
                path.write_bytes(one.data)
                by_id[sha256(f"{number} {place}".encode()).hexdigest()] = (one, path)
            files = [_file(update, *known) for update, known in by_id.items()]
            judged = self._judge(files)
        self.refused += [(one.signer, one.reason) for one in judged.left_out]
        return [by_id[one.file.update][0] for one in judged.kept]

    def _judge(self, files: Sequence[UpdateFile]) -> Judged:
        judged = judge_form(self.lead.crew_slot, files)
        judged = judged.then(lambda left: judge_norms(left, self.usual))
        judged = judged.then(lambda left: judge_copies(self.lead.crew_slot, left, self.lead.card))
        trials, scratch = self.trials, np.empty_like(self.lead.base.weights)
        if trials is None or not judged.kept:
            return judged
        own = max((one.file.clips for one in judged.kept if one.file.signer == self.own), default=0)
        count = max(LEAST_CLIPS, min(MOST_CLIPS, own // (len(judged.kept) + 1)))
        trials.begin_round()
        with trials.lent():
            judged = judged.then(lambda left: trials.judge_losses(left, self.own, scratch, count))
            return judged.then(lambda left: trials.judge_data(left, self.own, scratch))


def _file(update: str, sent: Sent, path: Path) -> UpdateFile:
    return UpdateFile(
        update=update,
        signer=sent.maker,
        path=path,
        steps=sent.steps,
        clips=sent.steps * TRAINING.batch_clips,
        first_clip=sent.at_step * TRAINING.batch_clips,
    )


def _lengths(counting: Sequence[Counting]) -> tuple[float, ...]:
    return lengths_for_steps([one.norm for one in counting], [one.sent.steps for one in counting])


def weighed(counting: list[Counting], number: int, batch_clips: int) -> list[tuple[Counting, float, float]]:
    """Returns each update with its weight and scale, by the rules of a round."""
    scales = update_scales(_lengths(counting))
    clips = weighed_clips([one.sent.steps * batch_clips for one in counting])
    return [
        (one, weight(count, number - one.sent.number), scale / SCALE_ONE)
        for one, count, scale in zip(counting, clips, scales, strict=True)
    ]


def contribution(one: Counting, share: float, scale: float, batch_clips: int) -> Contribution:
    """Returns an update as the product's outer step takes it; ValueError for one in float32."""
    if one.update is None:
        raise ValueError("an exact update is merged in float32")
    steps = one.sent.steps
    return Contribution(one.sent.maker, one.update, share, scale, steps, steps * batch_clips)
