"""Makes a lead's rounds: candidates are checked, the good ones merged beside the base, which stays as it is
until a card with the merged state is adopted.

Legend: n parameters of the slot's network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from paris_p2p.errors import TrainError
from paris_p2p.model.checkpoint import Counters, no_note
from paris_p2p.model.merged_file import write_merged
from paris_p2p.training.calibrating import RouterCalibrator
from paris_p2p.training.crew_learner import CrewLearner
from paris_p2p.training.crew_messages import Adopt, CrewJob, Merge, MergedReady, NotMerged, RoundFiles
from paris_p2p.training.gate_losses import as_published
from paris_p2p.training.probing import paired_z
from paris_p2p.training.round_merge import merge_round, scaled
from paris_p2p.training.update_checks import (
    Judged,
    OpenedUpdate,
    judge_copies,
    judge_form,
    judge_norms,
    leave_out,
    lengths_of,
)
from paris_p2p.training.update_trials import LEAST_CLIPS, MOST_CLIPS, Trials
from paris_p2p.updates.outer_step import OuterState


@dataclass
class Merger:
    """Merges rounds for a crew's lead; `room` is the second state that this takes, once it leads: 12 bytes a
    parameter more.
    """

    crew: CrewLearner
    trials: Trials
    job: CrewJob
    calibrator: RouterCalibrator | None = None  # of a router's full cards
    room: OuterState | None = None
    merged_hash: str = ""  # of the state in `room`

    def merge(self, command: Merge) -> MergedReady | NotMerged:
        """Returns what came of merging candidates into the base.

        TrainError where the base is another card's, InexactError, DivergedError, StoreError.
        """
        crew = self.crew
        if command.parent != crew.card:
            raise TrainError(
                f"the trainer has the state of card {crew.card[:16]}, and was told to merge into "
                f"{command.parent[:16]}; this is a bug in the node"
            )
        room, self.merged_hash = self._room(), ""
        judged = self._judge(command, room)
        if not judged.kept:
            return NotMerged(parent=command.parent, left_out=judged.left_out)
        worse_z = self._compare(command, judged.kept, room) if command.compare else None
        chosen = sorted(judged.kept, key=lambda one: one.file.signer)
        updates = [one.update for one in chosen]
        files = scaled([one.file for one in chosen], updates)
        merge_round(crew.crew_slot, crew.base, files, updates, full=command.full, out=room)
        self.merged_hash = crew.crew_slot.hash_of(room)
        made = RoundFiles(
            steps_before=crew.base.steps,
            clips_before=crew.base.clips,
            steps=room.steps,
            clips=room.clips,
            full=command.full,
            merged=self.merged_hash,
            updates=files,
        )
        weights, resume = self._write_full(room) if command.full else (None, None)
        clips = sum(file.clips for file in files)
        return MergedReady(
            parent=command.parent,
            round=made,
            left_out=judged.left_out,
            train_loss=sum(file.clips * file.train_loss for file in files) / clips,
            norm=median(lengths_of(chosen)),
            worse_z=worse_z,
            weights_path=weights,
            resume_path=resume,
        )

    def take(self, command: Adopt) -> OuterState | None:
        """Returns the state that a card names when it was merged here; its room is the base's then."""
        rounds, base, room = command.rounds, self.crew.base, self.room
        known = len(rounds) == 1 and rounds[0].merged == self.merged_hash != ""
        if not known or room is None or command.from_card != self.crew.card:
            return None
        self.room, self.merged_hash = base, ""
        return room

    def _write_full(self, state: OuterState) -> tuple[Path, Path]:
        """Writes the files of a full card; returns (weights, resume). DiskFullError, ReadOnlyError."""
        slot = self.crew.crew_slot
        counters = Counters(slot.run, slot.slot, state.steps, state.clips)
        note = self.calibrator.note if self.calibrator else no_note
        average_notes = note(as_published(slot.layout, state.average))
        return write_merged(self.job.out_dir, counters, dict(slot.layout.shapes), state, average_notes)

    def _room(self) -> OuterState:
        if self.room is None:
            self.room = self.crew.base.empty_like()
        return self.room

    def _judge(self, command: Merge, room: OuterState) -> Judged:
        """Returns which candidates are merged, after all checks; room's numbers are overwritten."""
        slot, files = self.crew.crew_slot, command.candidates
        judged = judge_form(slot, [file for file in files if file.update not in command.without])
        usual = self._usual_norm(judged.kept, command.usual_norm)
        judged = judged.then(lambda left: judge_norms(left, usual))
        judged = judged.then(lambda left: judge_copies(slot, left, command.parent))
        if any(one.file.signer != self.job.peer for one in judged.kept):
            count = self._probe_clips(judged.kept)
            self.trials.begin_round()
            with self.trials.lent():
                judged = judged.then(
                    lambda left: self.trials.judge_losses(left, self.job.peer, room.weights, count)
                ).then(lambda left: self.trials.judge_data(left, self.job.peer, room.weights))
            # Attestors compare with the median of those that were merged, and of no others.
            judged = judged.then(lambda left: judge_norms(left, 0.0))
        without = tuple(
            leave_out(file, "loss", "the gate refused the state that it was merged into")
            for file in files
            if file.update in command.without
        )
        most = slot.crew.peers
        over = tuple(leave_out(one, "full", f"a crew has {most} peers") for one in judged.kept[most:])
        return Judged(judged.kept[:most], judged.left_out + without + over)

    def _usual_norm(self, candidates: Sequence[OpenedUpdate], before: float) -> float:
        """Returns what a length is compared with where few candidates say nothing of each other: the rounds
        before, or this machine's own update where that is longer, as after a long round.
        """
        own = [one.length for one in candidates if one.file.signer == self.job.peer]
        return max(before, *own) if before > 0 and own else before

    def _probe_clips(self, candidates: Sequence[OpenedUpdate]) -> int:
        """Returns on how many clips updates are tried: all of it takes no more than a third of the passes
        through the network that the lead itself was trained with, as far as LEAST_CLIPS allow.
        """
        own_clips = max((one.file.clips for one in candidates if one.file.signer == self.job.peer), default=0)
        return max(LEAST_CLIPS, min(MOST_CLIPS, own_clips // (len(candidates) + 1)))

    def _compare(self, command: Merge, candidates: Sequence[OpenedUpdate], room: OuterState) -> float | None:
        """Returns by how many standard errors the average after the round is worse than after this machine's
        own update alone, also where others' were so many that it was left out; None where there is nothing to
        compare.
        """
        crew = self.crew
        mine = [file for file in command.candidates if file.signer == self.job.peer]
        own = judge_form(crew.crew_slot, mine).kept
        if not own or all(one.file.signer == self.job.peer for one in candidates):
            return None
        with self.trials.lent():
            batch, t = self.trials.probe(MOST_CLIPS)
            losses = []
            for part in (own, sorted(candidates, key=lambda one: one.file.signer)):
                updates = [one.update for one in part]
                files = scaled([one.file for one in part], updates)
                merge_round(crew.crew_slot, crew.base, files, updates, full=False, out=room)
                losses.append(self.trials.losses(room.average, batch, t))
        return paired_z(losses[1] - losses[0])
