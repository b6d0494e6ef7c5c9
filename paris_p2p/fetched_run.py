"""What a fetch of a run brought to this disk, or an exported folder holds: all that generating needs, as one
value.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from paris_p2p.envelope import Envelope
from paris_p2p.errors import SlotMissingError
from paris_p2p.spec import ROUTER, RunSpec, cluster_of


@dataclass(frozen=True)
class FetchedRun:
    """A verified RunSpec and the local files that go with it; a folder is None where a package or a hub has
    the model.

    Where the owner's notices changed the run, `effective` is the RunSpec with the set of experts that the
    router knows. An expert that has no checkpoint yet may have the weights of the one it was split from.
    """

    signed: Envelope[RunSpec]
    weights: Mapping[str, Path]  # by slot
    cards: Mapping[str, str] = field(default_factory=dict)  # by slot: the ids of the weights' cards
    codec_folder: Path | None = None
    text_folder: Path | None = None
    features_folder: Path | None = None
    effective: RunSpec | None = None
    # by slot, of a crew: the rounds that came since its weights were published in full
    behind: Mapping[str, int] = field(default_factory=dict)
    closing: ExitStack = field(default_factory=ExitStack, compare=False, repr=False)

    def __enter__(self) -> FetchedRun:
        return self

    def __exit__(self, *_: object) -> None:
        """Deletes the opened copies that the files of a sealed run are; of others, nothing."""
        self.closing.close()

    @property
    def id(self) -> str:
        return self.signed.id

    @property
    def spec(self) -> RunSpec:
        return self.effective or self.signed.record

    def behind_in_words(self, slot: str = "") -> str:
        """Returns what is said of weights that are older than their crew's last round, of one slot or of all;
        empty where none is.
        """
        counts = [self.behind.get(slot, 0)] if slot else [*self.behind.values(), 0]
        rounds = max(counts)
        up_to = "" if slot or len({*counts} - {0}) < 2 else "up to "
        return f", the newest full weights, {up_to}{rounds} round{'s' * (rounds > 1)} behind" * bool(rounds)

    @property
    def experts(self) -> list[int]:
        """Returns the numbers of the experts that generate: of those in the set that have weights here, in
        order.
        """
        return sorted(cluster_of(slot) for slot in self.weights if slot != ROUTER and slot in self.spec.slots)


def check_slots(spec: RunSpec, present: Collection[str], *, partial: bool) -> tuple[str, ...]:
    """Returns the slots of the run that are not among those present.

    SlotMissingError, naming them, when there are such and `partial` does not allow for them, or when no
    expert is present: a partial mixture still needs one.
    """
    missing = tuple(slot for slot in spec.slots if slot not in present)
    if missing and not partial:
        without = " (without the router, with --routing uniform)" if ROUTER in missing else ""
        raise SlotMissingError(
            f"no checkpoint was attested yet for {', '.join(missing)}; wait until the run has trained them, "
            f"or use --allow-partial to route among the others{without}"
        )
    if not set(present) & set(spec.slots) - {ROUTER}:
        raise SlotMissingError(
            f"no expert has a checkpoint yet ({', '.join(missing)} are missing); "
            "there is nothing to generate with"
        )
    return missing
