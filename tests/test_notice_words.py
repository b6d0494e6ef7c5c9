"""What a person reads of the owner's notices."""

from __future__ import annotations

from typing import get_args

import pytest

from paris_p2p.notice_words import change_words, date_words, notice_words, peer_words
from paris_p2p.owner_records import (
    FOREVER_S,
    AddClips,
    AddedShard,
    AddExpert,
    Admit,
    AnyChange,
    DropExpert,
    End,
    Extend,
    Pause,
    Resume,
    Revoke,
    RevokeCard,
)
from paris_p2p.records import BlobRef
from tests.rules.made import A
from tests.rules.made_notices import chain_of

ME = A.peer_id
END = f"…{ME[-8:]}"
SHARD = AddedShard(split="train", cluster=2, blob=BlobRef(id="77" * 32, size_bytes=5), clips=1200)
SAID: dict[AnyChange, str] = {
    Pause(reason="night"): "paused: night",
    Pause(): "paused",
    Resume(): "resumed",
    End(reason="done"): "ended the run: done",
    Admit(peer=ME, rights=("generate", "train"), name="desk"): f"admitted desk ({END}): may train, generate",
    Revoke(peer=ME, next_key="12" * 32): f"revoked {END}; a new key is in force",
    Revoke(peer=ME, keeps=(ME,)): f"revoked {END}; 1 that it admitted stay",
    RevokeCard(slot="expert-1", card="cd" * 32, place=7, floor=9): (
        "took back expert-1 seq 7 (cdcdcdcd…) and what stands on it"
    ),
    Extend(total_steps=20000, tolerance=0.05): (
        "changed the run's numbers: total steps 20,000, gate tolerance 0.05"
    ),
    AddClips(shards=(SHARD,)): "added 1,200 clips and 0 for the gate to expert 2",
    AddExpert(parent=1, child=3, parts=2): "split expert-1: expert-3 starts from it",
    DropExpert(expert=1): "took expert-1 out of the mixture",
}


@pytest.mark.parametrize("change", SAID, ids=lambda change: change.act)
def test_each_act_is_said_in_words(change: AnyChange) -> None:
    assert change_words(change, {}) == SAID[change]


def test_no_act_is_without_words() -> None:
    assert {type(change) for change in SAID} == set(get_args(AnyChange))


def test_a_notice_names_its_number_its_date_and_peers_as_the_owner_calls_them() -> None:
    notice = chain_of("ab" * 32, [Revoke(peer=ME)])[0]
    words = notice_words(notice, {ME: "desk"})
    assert words == f"notice 1, owner, {date_words(notice.record.issued_at)}: revoked desk ({END})"
    assert peer_words(ME, {}) == END


@pytest.mark.parametrize(
    ("at_s", "words"), [(FOREVER_S, "for ever"), (float("inf"), "for ever"), (-1e9, date_words(0.0))]
)
def test_dates_beyond_a_clock_are_no_error(at_s: float, words: str) -> None:
    assert date_words(at_s) == words
