"""What peers tell each other of a slot's past tips: a question, and a page of the answer (docs/protocol.md,
"History").
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from paris_p2p.crew_records import MAX_ROUND_BYTES
from paris_p2p.records import Count, Hash, Record, Slot

MAX_PAGE_BYTES = 900 << 10  # of a page's records, as the answering side counts them
MAX_PAGE_TIPS = 2048
MAX_ROUNDS_ASKED = 100  # at once: a question has at most 8 KiB
MAX_TOLD_ATTESTATIONS = 64  # of one tip: as many as a quorum may have
# of a round's blob; a longer one is not kept, and its clips are told without their makers
MAX_TOLD_ROUND_BYTES = MAX_ROUND_BYTES // 4
_Told = Annotated[bytes, Field(min_length=1, max_length=2048)]


class HistoryQuestion(Record):
    """Asks for the tips of a slot whose `seq` is above `after`, or for the bytes of `rounds` by their ids."""

    slot: Slot
    after: Count = 0
    rounds: Annotated[tuple[Hash, ...], Field(max_length=MAX_ROUNDS_ASKED)] = ()


class ToldTip(Record):
    """Is a tip as it is told: envelopes of its card and of what attests it."""

    card: _Told
    attestations: Annotated[tuple[_Told, ...], Field(max_length=MAX_TOLD_ATTESTATIONS)]


class HistoryPage(Record):
    """Answers a question: tips by rising `seq`, or rounds; `more` says that there are tips after these."""

    tips: Annotated[tuple[ToldTip, ...], Field(max_length=MAX_PAGE_TIPS)] = ()
    # blobs as the cards name them, sealed in a private run
    rounds: Annotated[
        tuple[Annotated[bytes, Field(max_length=MAX_TOLD_ROUND_BYTES)], ...],
        Field(max_length=MAX_ROUNDS_ASKED),
    ] = ()
    more: bool = False
