"""What an attestor says against a crew's rounds before it fetches anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from paris_p2p.crew_records import Counted, MergedUpdate, RefusedUpdate
from paris_p2p.records import BlobRef, CardRecord
from paris_p2p.rules.round_checks import (
    CrewRules,
    OpenedRound,
    lineage_after,
    new_rounds,
    refuse_names,
    refuse_round_length,
    refuse_rounds,
    state_after,
    state_before,
)
from paris_p2p.rules.rounds import MAX_STEPS_OF_MEDIAN
from tests.rules.made import NOW, A, B, C, D, card
from tests.rules.made_rounds import BATCH, CREW, RULES, chain, light_card, opened_round, ref, update

SOLO = card(A)
BEFORE = state_before(SOLO, None)


def of(base: str = SOLO.id) -> list[Any]:
    return [update(peer, base) for peer in (A, B, C)]


def refuse_one(one: OpenedRound, rules: CrewRules = RULES, **changes: Any) -> str | None:
    made = light_card(A, SOLO, [one], **changes)
    return refuse_rounds(made, BEFORE, [one], rules)


def test_an_honest_crews_cards_are_accepted_one_after_another() -> None:
    made = chain((A, B, C), A, 4)
    for (parent, last), (child, one) in pairwise(made):
        assert refuse_names(child.record, parent, CREW) is None
        assert refuse_rounds(child, state_before(parent, last), [one], RULES) is None
    assert len(made[-1][0].record.rounds) == 4
    assert len(made[-1][1].made.lineage) == 3


def test_a_round_after_one_leads_checkpoint_takes_updates_of_that_card_alone() -> None:
    assert lineage_after(SOLO.id, None) == (SOLO.id,)
    old = opened_round(BEFORE, of(), lineage=(SOLO.id, "0a" * 32))
    assert "lineage" in (refuse_one(old) or "")


def test_an_update_two_rounds_late_counts_and_one_of_three_rounds_before_does_not() -> None:
    made = chain((A, B), A, 3)
    tip, last = made[-1]
    before = state_before(tip, last)
    for back, expected in ((1, 1), (2, 2)):
        late = update(C, made[-1 - back][0].id)
        one = opened_round(before, [late])
        assert one.made.updates[0].late == expected
        assert refuse_rounds(light_card(A, tip, [one]), before, [one], RULES) is None
    stale = opened_round(before, [update(C, made[0][0].id)])
    assert "not among the last" in (refuse_rounds(light_card(A, tip, [stale]), before, [stale], RULES) or "")


def test_a_card_may_bring_the_round_of_a_card_that_was_never_attested() -> None:
    first = opened_round(BEFORE, of())
    unattested = light_card(A, SOLO, [first])
    between = replace(state_after(BEFORE, first), card=unattested.id)
    second = opened_round(between, [update(A, unattested.id, 50), update(D, SOLO.id)])
    assert second.made.updates[[one.signer for one in second.updates].index(D.peer_id)].late == 1
    made = light_card(A, SOLO, [first, second])
    assert refuse_rounds(made, BEFORE, [first, second], RULES) is None
    worker = opened_round(between, [update(B, unattested.id, 50)])
    made = light_card(A, SOLO, [first, worker])
    assert "not known here" in (refuse_rounds(made, BEFORE, [first, worker], RULES) or "")
    known = replace(RULES, known={unattested.id: unattested})
    assert refuse_rounds(made, BEFORE, [first, worker], known) is None
    other = replace(RULES, known={unattested.id: light_card(A, SOLO, [first], merged="0f" * 32)})
    assert "another state" in (refuse_rounds(made, BEFORE, [first, worker], other) or "")


def test_a_round_may_name_the_same_checkpoint_as_it_was_signed_before() -> None:
    again = card(A, None, issued_at=NOW + 1)
    one = opened_round(replace(BEFORE, card=SOLO.id), of())
    before = state_before(again, None)
    made = light_card(A, again, [one])
    assert "another state" in (refuse_rounds(made, before, [one], RULES) or "")
    known = replace(RULES, known={SOLO.id: SOLO})
    assert refuse_rounds(made, before, [one], known) is None
    otherwise = card(A, None, weights=BlobRef(id="0b" * 32, size_bytes=1))
    known = replace(RULES, known={SOLO.id: otherwise})
    assert "another state" in (refuse_rounds(made, before, [one], known) or "")


def _reorder(one: OpenedRound) -> OpenedRound:
    made = one.made.model_copy(update={"updates": one.made.updates[::-1]})
    return OpenedRound(made, one.updates[::-1])


def _twice(one: OpenedRound) -> OpenedRound:
    updates, entries = (*one.updates, one.updates[-1]), (*one.made.updates, one.made.updates[-1])
    return OpenedRound(one.made.model_copy(update={"updates": entries}), updates)


def _changed(**changes: Any) -> Callable[[OpenedRound], OpenedRound]:
    return lambda one: replace(one, made=one.made.model_copy(update=changes))


def _late(one: OpenedRound) -> OpenedRound:
    first = one.made.updates[0]
    entries = (MergedUpdate(envelope=first.envelope, late=2, scale=first.scale), *one.made.updates[1:])
    return _changed(updates=entries)(one)


def _counted(change: Callable[[dict[str, int]], Any]) -> Callable[[OpenedRound], OpenedRound]:
    def changed(one: OpenedRound) -> OpenedRound:
        counts = {each.peer: each.next for each in one.made.counted}
        change(counts)
        return _changed(counted=tuple(Counted(peer=p, next=n) for p, n in sorted(counts.items())))(one)

    return changed


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_reorder, "ascend"),
        (_twice, "ascend"),
        (_late, "2 rounds late"),
        (_changed(steps=999), "to 999 steps"),
        (_changed(clips=999), "its updates bring"),
        (_changed(steps_before=0), "begins at 0"),
        (_changed(merged_before="0a" * 32), "begins with state"),
        (_changed(full=True), "rounded"),
        (_changed(lineage=("0a" * 32,)), "another state"),
        (_counted(lambda counts: counts.update({B.peer_id: 49})), "counts other clips"),
        (_counted(lambda counts: counts.pop(B.peer_id)), "counts other clips"),
        (
            _changed(refused=(RefusedUpdate(update="0c" * 32, peer=D.peer_id, reason="mood"),)),
            "'mood'",
        ),
        (
            _changed(refused=2 * (RefusedUpdate(update="0c" * 32, peer=D.peer_id, reason="late"),)),
            "refuses an update twice",
        ),
        (_changed(merged="0d" * 32), "its last round"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_round_that_was_changed_is_refused(
    change: Callable[[OpenedRound], OpenedRound], words: str
) -> None:
    honest = opened_round(BEFORE, of())
    assert refuse_one(honest) is None
    changed = change(honest)
    why = refuse_rounds(light_card(A, SOLO, [honest]), BEFORE, [changed], RULES)
    assert words in (why or "")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"slot": "expert-1"}, "expert-1"),
        ({"clips": 51}, "counts more steps"),
        ({"steps": 0, "clips": 0}, "counts more steps"),
        ({"base": "0a" * 32}, "not among the last"),
        (
            {"steps": 9 * CREW.most_steps, "clips": 9 * CREW.most_steps * BATCH},
            "counts more steps",
        ),
    ],
    ids=["slot", "clips", "nothing", "base", "steps"],
)
def test_an_update_that_cannot_count_is_refused_with_its_round(changes: dict[str, Any], words: str) -> None:
    assert MAX_STEPS_OF_MEDIAN < 9
    one = opened_round(BEFORE, [update(A, SOLO.id), update(B, SOLO.id, **changes)])
    assert words in (refuse_one(one) or "")


def test_no_clips_count_twice_along_a_lineage() -> None:
    made = chain((A, B), A, 2)
    tip, last = made[-1]
    before = state_before(tip, last)
    again = opened_round(before, [update(A, tip.id, 99), update(B, tip.id, 100)])
    counts = tuple(
        Counted(peer=peer, next=next_clip)
        for peer, next_clip in sorted({A.peer_id: 149, B.peer_id: 150}.items())
    )
    again = _changed(counted=counts)(again)
    assert "merged already" in (refuse_rounds(light_card(A, tip, [again]), before, [again], RULES) or "")


def test_a_signer_that_may_not_train_is_refused() -> None:
    rules = replace(RULES, counts=lambda envelope: envelope.signer != B.peer_id)
    assert "may not train" in (refuse_one(opened_round(BEFORE, of()), rules) or "")


def test_steps_that_no_machine_makes_since_the_base_was_signed_are_refused() -> None:
    rules = replace(RULES, known={SOLO.id: SOLO}, crew=CREW.model_copy(update={"most_steps": 100_000}))
    fast = update(B, SOLO.id, steps=20_001, clips=200_010, issued_at=NOW + 2)
    assert "counts more steps" in (refuse_one(opened_round(BEFORE, [fast]), rules) or "")
    slower = update(B, SOLO.id, steps=20_000, clips=200_000, issued_at=NOW + 2)
    assert refuse_one(opened_round(BEFORE, [slower]), rules) is None


def test_more_updates_than_a_crew_has_peers_are_refused() -> None:
    rules = replace(RULES, crew=CREW.model_copy(update={"peers": 2}))
    assert "2 peers make a crew" in (refuse_one(opened_round(BEFORE, of()), rules) or "")


@pytest.mark.parametrize("field", ["steps", "clips", "merged"])
def test_a_card_must_say_what_its_last_round_says(field: str) -> None:
    wrong: dict[str, Any] = {"steps": 1, "clips": 1, "merged": "0e" * 32}
    assert "its last round" in (refuse_one(opened_round(BEFORE, of()), **{field: wrong[field]}) or "")


def test_the_last_round_of_a_full_card_is_rounded_and_no_other_is() -> None:
    plain, rounded = opened_round(BEFORE, of()), opened_round(BEFORE, of(), full=True)
    full = light_card(A, SOLO, [rounded], full="", weights=ref(1), resume=ref(2))
    assert refuse_names(full.record, SOLO, CREW) is None
    assert refuse_rounds(full, BEFORE, [rounded], RULES) is None
    assert "rounded" in (refuse_rounds(full, BEFORE, [plain], RULES) or "")
    two = opened_round(state_after(BEFORE, rounded), [update(A, SOLO.id, 50)], lineage=("0a" * 32, SOLO.id))
    assert "rounded" in (refuse_rounds(full, BEFORE, [rounded, two], RULES) or "")


LIGHT = chain((A, B), A, 1)[1][0]
NEXT = chain((A, B), A, 2)[2][0].record


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"full": "0a" * 32}, "another full card"),
        ({"full": LIGHT.id}, "another full card"),
        ({"weights": ref(7)}, "not those of the full card"),
        ({"resume": ref(7)}, "not those of the full card"),
        ({"rounds": NEXT.rounds[1:]}, "do not begin with its parent's"),
        ({"rounds": NEXT.rounds[:1]}, "no round more"),
        ({"rounds": (*NEXT.rounds, NEXT.rounds[0])}, "a round twice"),
        ({"rounds": (*NEXT.rounds, *LIGHT.record.rounds)}, "a round twice"),
    ],
)
def test_a_light_card_names_its_parents_files_and_rounds_and_a_round_more(
    changes: dict[str, Any], words: str
) -> None:
    assert refuse_names(NEXT, LIGHT, CREW) is None
    assert words in (refuse_names(NEXT.model_copy(update=changes), LIGHT, CREW) or "")


def test_rounds_need_a_run_with_crews_and_a_card_before_them() -> None:
    assert refuse_names(NEXT, LIGHT, None) == "the run has no crews"
    assert "first card" in (refuse_names(NEXT, None, CREW) or "")
    assert refuse_names(SOLO.record, None, None) is None
    assert refuse_names(card(A, LIGHT).record, LIGHT, CREW) is None  # its lead trains alone again


def test_after_full_weights_the_rounds_begin_anew() -> None:
    full = light_card(A, SOLO, [opened_round(BEFORE, of(), full=True)], full="")
    one = opened_round(state_before(full, opened_round(BEFORE, of(), full=True)), [update(A, full.id, 50)])
    child = light_card(A, full, [one])
    assert new_rounds(child.record, full.record) == child.record.rounds
    assert refuse_names(child.record, full, CREW) is None
    both: CardRecord = child.record.model_copy(update={"full": SOLO.id})
    assert "another full card" in (refuse_names(both, full, CREW) or "")


@pytest.mark.parametrize(
    ("round_s", "allowed"), [(0.0, True), (200.0, True), (1200.0, True), (199.0, False), (1201.0, False)]
)
def test_a_card_gives_the_next_round_a_length_that_the_rules_can_give(round_s: float, allowed: bool) -> None:
    made = card(A, round_s=round_s).record
    assert (refuse_round_length(made, 600.0) is None) is allowed
