"""When a lead's next card goes out: one decision at a time, and whole leaderships with hand-moved time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from paris_p2p.envelope import Envelope, seal
from paris_p2p.records import BlobRef, CardRecord, RefusalRecord
from paris_p2p.rules.claims import Decision
from paris_p2p.rules.holding import Holding
from paris_p2p.rules.next_card import (
    CardDecision,
    CardView,
    NewCheckpoint,
    Outgoing,
    ResumePoint,
    next_card,
)
from paris_p2p.rules.own_card import OwnCard, OwnView, begins_with
from paris_p2p.rules.rates import RESTS
from paris_p2p.rules.refusals import words_of
from paris_p2p.rules.tips import Tip, tip_id

from .made import NOW, SLOT, A, B, D, attest, card, tip

CHECKPOINT_S = 600.0
TRAINS = Decision("train", SLOT, 1, "this peer leads")
HOLDING = Holding(epoch=1, claimed_at=NOW, issued_at=NOW, ends_s=1e9)
LOST = Decision("yield", SLOT, 1, "another holds it under epoch 2")
FIRST = card(A)
SECOND = card(A, FIRST)


def checkpoint(steps: int) -> NewCheckpoint:
    return NewCheckpoint(Path(f"w{steps}"), Path(f"r{steps}"), clips=10 * steps, steps=steps, train_loss=1.0)


def view(at: Tip | None = None, **more: Any) -> CardView:
    fields: dict[str, Any] = {
        "slot": SLOT,
        "tip": at,
        "claim": TRAINS,
        "holding": HOLDING,
        "margin_s": 5.0,
        "checkpoint_s": CHECKPOINT_S,
    }
    return CardView(**fields | more)


def begun(at: Tip | None = None) -> Outgoing:
    return Outgoing().started_from(at)


def out(sent: Envelope[CardRecord], at_s: float = 0.0, at: Tip | None = None) -> Outgoing:
    """A state in which a card was signed and told, and the next checkpoint waits."""
    told = begun(at).signed(sent).told(sent)
    return replace(told, sent_at_s=at_s).made(checkpoint(20))


def test_the_first_checkpoint_goes_out_at_once() -> None:
    assert next_card(begun(), view(), 0.0).action == "wait"
    assert next_card(begun().made(checkpoint(10)), view(), 0.0) == CardDecision("publish", epoch=1)


def test_a_newer_checkpoint_replaces_the_one_that_waits_and_is_what_a_new_trainer_goes_on_from() -> None:
    state = begun().made(checkpoint(10)).made(checkpoint(20))
    assert state.waiting == checkpoint(20)
    assert state.newest == ResumePoint(Path("r20"), None, 20, 200)
    blob = BlobRef(id="2" * 64, size_bytes=20)
    stored = state.taken().stored(checkpoint(20), blob)
    assert (stored.waiting, stored.newest) == (None, ResumePoint(None, blob, 20, 200))
    overtaken = state.taken().made(checkpoint(30)).stored(checkpoint(20), blob)
    assert overtaken.newest.path == Path("r30")


def test_a_card_waits_for_the_one_before_it_until_patience_ends_and_says_why() -> None:
    state, patience_s = out(FIRST), 2 * CHECKPOINT_S
    waits = next_card(state, view(), patience_s - 1)
    assert (waits.action, waits.until_s) == ("wait", patience_s)
    assert next_card(state, view(), patience_s).why == (
        f"nobody attested {SLOT} seq 1: refused, or nobody is there; a newer one goes out"
    )
    refused = next_card(state, view(refusals=(refusal(FIRST, "loss"), refusal(SECOND, "finite"))), patience_s)
    assert words_of("loss") in refused.why
    assert words_of("finite") not in refused.why


def test_after_an_attestation_the_next_card_goes_out_a_cadence_after_the_last_one() -> None:
    at = tip(FIRST)
    state = out(FIRST).seen(at, 60.0)
    assert (state.pending, state.upload_s, state.attested, state.sent) == (None, 60.0, 1, ())
    waits = next_card(state, view(at), 100.0)
    assert (waits.action, waits.until_s) == ("wait", CHECKPOINT_S - 60.0)
    assert next_card(state, view(at), waits.until_s).action == "publish"
    assert next_card(state, view(at, ending=True), 100.0).action == "publish"


def test_a_leadership_goes_on_from_an_own_card_that_nobody_attested_and_tells_it_under_its_epoch() -> None:
    other, at = card(B), tip(FIRST)
    own = OwnCard(SECOND, frozenset({other.id}))
    state = begun(at).going_on(own)
    record = SECOND.record
    assert state.newest == ResumePoint(blob=record.resume, steps=record.steps, clips=record.clips)
    assert state.busy
    assert [card.id for card in state.after(at)] == [SECOND.id]  # it is refused, or attested, as any other
    assert state.descends(at)
    assert state.descends(tip(SECOND))
    assert state.descends(tip(other))
    assert next_card(state, view(at), 0.0).action == "tell"
    above = view(at, holding=replace(HOLDING, epoch=2))
    assert next_card(state, above, 0.0) == CardDecision("publish again", epoch=2)
    assert state.before == {SECOND.id, other.id}
    assert state.seen(tip(SECOND), 1.0).before == frozenset()
    assert next_card(state.told(SECOND), view(tip(other)), 0.0).action == "publish again"


def test_what_is_the_tip_is_not_told_again_whenever_that_comes() -> None:
    at = tip(FIRST)
    state = begun(at).going_on(OwnCard(SECOND)).seen(tip(SECOND), 60.0)  # while the claim was renewed
    assert (state.pending, state.untold, state.upload_s) == (None, None, 0.0)
    above = view(tip(SECOND), holding=replace(HOLDING, epoch=2))
    assert next_card(state, above, 60.0).action == "wait"


def test_a_checkpoint_that_was_signed_twice_is_published_no_more_once_either_card_is_the_tip() -> None:
    at, again = tip(FIRST), card(A, FIRST, epoch=2)
    state = replace(begun(at).going_on(OwnCard(SECOND)).signed(again).told(again), sent_at_s=0.0)
    arrived = state.seen(tip(SECOND), 60.0)
    assert (arrived.pending, arrived.upload_s, arrived.attested, arrived.sent) == (None, 60.0, 1, ())
    assert next_card(arrived, view(tip(SECOND)), 60.0).action == "wait"
    assert arrived.before == {again.id}  # attestors may have signed it too: then it is the tip after all
    assert state.seen(tip(again), 60.0).before == frozenset()
    newer = card(A, FIRST, epoch=2, steps=99)
    ahead = begun(at).going_on(OwnCard(SECOND)).signed(newer).told(newer)
    assert ahead.seen(tip(SECOND), 60.0) is ahead
    assert next_card(ahead, view(tip(SECOND)), 60.0).action == "publish again"


def test_rounds_go_on_from_an_own_card_that_becomes_the_tip_and_a_training_alone_does_not() -> None:
    at, other = tip(FIRST), card(B, FIRST)
    state = begun(at).expecting(OwnCard(SECOND, frozenset({other.id})))
    assert not state.busy
    assert state.descends(at)
    assert state.dropped().descends(tip(other))
    arrived = state.seen(tip(SECOND), 1.0)
    assert (arrived.descends(tip(SECOND)), arrived.expected) == (True, frozenset())
    assert not arrived.descends(tip(other))
    assert not begun(at).descends(tip(SECOND))
    assert not state.started_from(at).descends(tip(SECOND))


def test_a_checkpoint_that_could_not_be_signed_waits_again_unless_its_training_went_past_it() -> None:
    made = begun().made(checkpoint(10))
    assert made.taken().not_signed(checkpoint(10)) == made
    newer = made.taken().made(checkpoint(20))
    assert newer.not_signed(checkpoint(10)) == newer
    taken = newer.taken()
    assert taken.not_signed(checkpoint(10)) == taken
    for left in (made.taken().begun_again(), made.taken().started_from(tip(SECOND))):
        assert left.not_signed(checkpoint(10)) == left


@pytest.mark.parametrize("action", ["yield", "standby"])
def test_who_lost_the_claim_stops_and_says_to_whom(action: Any) -> None:
    lost = replace(LOST, action=action)
    state = replace(begun().made(checkpoint(10)), untold=FIRST)
    assert next_card(state, view(claim=lost), 0.0) == CardDecision("yield", LOST.reason)


@pytest.mark.parametrize("action", ["train", "hold", "claim", "settle"])
def test_a_claim_that_is_due_or_lapsed_while_nobody_came_is_not_lost(action: Any) -> None:
    decision = next_card(begun().made(checkpoint(10)), view(claim=replace(TRAINS, action=action)), 0.0)
    assert decision.action == "publish"


def test_a_card_that_is_just_being_told_is_not_told_twice_nor_is_another_beside_it() -> None:
    for state in (begun().signed(FIRST), begun().made(checkpoint(10))):
        assert next_card(state, view(sending=True), 1e6).action == "wait"
        assert next_card(state, view(), 1e6).action in ("tell", "publish")


def test_near_the_end_of_a_claim_and_while_a_trainer_loads_nothing_goes_out_not_even_what_is_untold() -> None:
    state = begun().signed(FIRST)
    assert next_card(state, view(), 0.0).action == "tell"
    assert next_card(state, view(holding=replace(HOLDING, ends_s=104.0)), 99.0).action == "wait"
    assert next_card(state, view(loading=True), 0.0).action == "wait"


def test_a_signed_card_is_told_before_anything_else_goes_out() -> None:
    state = begun().signed(FIRST).made(checkpoint(20))
    assert next_card(state, view(), 1e6).action == "tell"
    assert next_card(replace(state, going_back=True), view(), 1e6).action == "tell"
    assert state.told(SECOND).untold is FIRST
    assert state.told(FIRST).untold is None


def test_what_does_not_descend_from_the_tip_is_abandoned() -> None:
    strange = tip(card(B))
    decision = next_card(out(FIRST), view(strange), 0.0)
    assert decision.action == "abandon"
    assert "is not what this training descends from" in decision.why
    assert not out(FIRST).dropped().busy


def test_nothing_goes_out_of_a_training_that_the_owner_took_the_ground_from() -> None:
    at = tip(FIRST)
    given_up = out(SECOND, at=at).given_up("the owner took it back")
    assert (given_up.waiting, given_up.pending, given_up.untold, given_up.sent) == (None, None, None, ())
    for state in (given_up, given_up.made(checkpoint(30))):  # what is made yet goes the same way
        decision = next_card(state, view(at), 1e6)
        assert (decision.action, decision.why) == ("abandon", "the owner took it back")


def test_a_training_knows_the_places_of_the_cards_that_it_stands_on() -> None:
    at = tip(card(A, SECOND, epoch=5))
    assert begun(at).places == {(5, 3)}
    assert begun(at).signed(card(A, at.card, epoch=6)).places == {(5, 3), (6, 4)}
    assert begun(at).begun_again().places == frozenset()


def test_what_went_out_before_an_earlier_card_became_the_tip_follows_it() -> None:
    first, newer = card(A), card(A, steps=20)
    late = tip(first)
    state = replace(begun().signed(first).signed(newer).told(newer), sent_at_s=0.0)
    assert not state.is_overtaken(None)
    again = next_card(state, view(late), 1.0)
    assert again.action == "publish again"
    assert again.why.startswith(f"an earlier checkpoint became {SLOT} seq 1")
    assert next_card(state.made(checkpoint(30)), view(late), 1.0).action == "publish"


def test_while_a_slot_goes_back_no_checkpoint_goes_out_and_no_card_counts_as_refused() -> None:
    state = replace(out(FIRST), going_back=True)
    assert next_card(state, view(), 1e6).action == "wait"
    assert state.after(None) == ()
    assert replace(state, going_back=False).after(None) == (FIRST,)
    assert replace(state, going_back=False).after(tip(FIRST)) == ()


def test_a_place_that_attestors_used_for_another_card_is_left_for_a_higher_epoch() -> None:
    state = begun().made(checkpoint(10))
    assert next_card(state, view(used={1: frozenset({"another"})}), 0.0).epoch == 2
    assert next_card(out(FIRST), view(used={1: frozenset({FIRST.id})}), 1e6).epoch == 1


def test_a_training_takes_its_rate_from_the_tip_and_begins_again_at_a_lower_one() -> None:
    assert begun(tip(card(A, FIRST, lowered=2))).lowered == 2
    assert begun(tip(card(A, FIRST, lowered=RESTS))).lowered == 0
    again = out(FIRST).begun_again()
    assert (again.lowered, again.newest, again.busy) == (1, ResumePoint(), False)
    assert again.descends(None)
    assert not again.descends(tip(FIRST))


def refusal(of: Envelope[CardRecord], reason: str) -> Envelope[RefusalRecord]:
    head = {"run": of.record.run, "slot": SLOT, "seq": 1, "issued_at": NOW, "expires_at": NOW + 60}
    return seal(D, RefusalRecord(**head, epoch=1, card=of.id, parent=of.record.parent, reason=reason))


class Leadership(RuleBasedStateMachine):
    """One lead, its trainer, its attestors and its rivals, and a task that carries out decisions."""

    def __init__(self) -> None:
        super().__init__()
        self.state, self.tip = begun(), None
        self.now_s, self.steps = 0.0, 0
        self.lost = self.loading = self.abandoned = False
        self.claim_ends_s = 1e9
        self.goes_out: list[tuple[float, CardDecision, Envelope[CardRecord]]] = []
        self.made: list[int] = []
        self.epoch, self.own, self.led_again_s = 1, None, -1.0

    def decide(self) -> CardDecision:
        self.state = self.state.seen(self.tip, self.now_s)
        claim = LOST if self.lost else TRAINS
        seen = view(
            self.tip,
            claim=claim,
            holding=replace(HOLDING, ends_s=self.claim_ends_s, epoch=self.epoch),
            loading=self.loading,
        )
        return next_card(self.state, seen, self.now_s)

    @rule()
    def the_trainer_makes_a_checkpoint(self) -> None:
        self.steps += 10
        self.made.append(self.steps)
        self.state = self.state.made(checkpoint(self.steps))

    @rule(seconds=st.sampled_from([1.0, 100.0, CHECKPOINT_S, 3 * CHECKPOINT_S]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds

    @precondition(lambda self: self.goes_out)
    @rule(data=st.data())
    def an_attestor_signs_one_of_the_cards_that_went_out(self, data: st.DataObject) -> None:
        mine = [one for one in self.sent_cards() if one.record.parent == tip_id(self.tip)]
        if mine:
            self.tip = tip(data.draw(st.sampled_from(mine)))

    @rule()
    def another_leads_card_becomes_the_tip(self) -> None:
        parent = self.tip.card if self.tip else None
        steps = self.steps + 1000
        self.tip = tip(card(B, parent, steps=steps, clips=10 * steps))

    @precondition(lambda self: self.own is not None)
    @rule(higher=st.booleans())
    def it_was_killed_and_leads_again(self, higher: bool) -> None:
        """What waits on its disk and was not signed is lost."""
        self.epoch, self.led_again_s = self.epoch + higher, self.now_s
        self.state, seen = begun(self.tip), OwnView(self.tip, has_blobs=True)
        if begins_with(self.own, seen, NOW) == "own":
            self.state = self.state.going_on(self.own)
        self.lost = self.loading = self.abandoned = False
        self.claim_ends_s, self.steps = 1e9, self.state.newest.steps

    @rule(lost=st.booleans(), loading=st.booleans(), left_s=st.sampled_from([1.0, 1e9]))
    def claims_and_trainers_come_and_go(self, lost: bool, loading: bool, left_s: float) -> None:
        self.lost, self.loading, self.claim_ends_s = lost, loading, self.now_s + left_s

    @rule(fails=st.booleans())
    def the_task_carries_out_what_was_decided(self, fails: bool) -> None:
        decision = self.decide()
        if decision.action in ("publish", "publish again"):
            self.send(decision, fails)
        elif decision.action == "tell":
            assert self.state.untold is not None
            self.tell(self.state.untold, fails)
        elif decision.action == "abandon":
            self.state, self.abandoned = self.state.dropped(), True

    def send(self, decision: CardDecision, fails: bool) -> None:
        new, again = self.state.waiting, self.state.pending
        assert self.state.untold is None or self.state.untold.record.epoch < decision.epoch
        assert not self.lost
        assert not self.loading
        assert self.now_s < self.claim_ends_s - 5.0
        assert self.state.descends(self.tip)
        assert new is not None or again is not None
        if new is not None:
            assert new.steps == self.made[-1], "a newer checkpoint replaces the one that waits"
        steps = new.steps if new else again.record.steps if again else -1
        parent = self.tip.card if self.tip else None
        assert parent is None or steps > parent.record.steps, "no attestor signs what trained nothing"
        signed = card(A, parent, steps=steps, clips=10 * steps, epoch=decision.epoch)
        self.own = OwnCard(signed, self.state.before)
        self.goes_out.append((self.now_s, decision, signed))
        self.state = self.state.taken().signed(signed)
        self.tell(signed, fails)

    def tell(self, told: Envelope[CardRecord], fails: bool) -> None:
        self.state = replace(self.state, sent_at_s=self.now_s)
        if not fails:
            self.state = self.state.told(told)

    @invariant()
    def at_most_one_card_waits_for_attestation_and_every_other_one_sent_is_older(self) -> None:
        assert self.state.pending is None or self.state.pending is self.state.sent[-1]
        assert self.state.untold is None or self.state.untold is self.state.pending

    def sent_cards(self) -> list[Envelope[CardRecord]]:
        return [sent for _, _, sent in self.goes_out]

    @invariant()
    def a_second_card_goes_out_early_only_after_an_earlier_one_became_the_tip(self) -> None:
        for (before_s, _, _), (at_s, decision, _) in zip(self.goes_out, self.goes_out[1:], strict=False):
            if not decision.why.startswith("an earlier checkpoint") and not before_s <= self.led_again_s:
                assert at_s - before_s >= CHECKPOINT_S * 2 / 3

    @invariant()
    def nothing_of_an_abandoned_training_is_left_to_send(self) -> None:
        if self.abandoned and not self.state.descends(self.tip):
            assert self.decide().action in ("yield", "abandon")

    @invariant()
    def deciding_twice_decides_alike(self) -> None:
        assert self.decide() == self.decide()


def test_whatever_happens_one_card_waits_the_newest_follows_it_and_nothing_goes_out_without_a_claim() -> None:
    run_state_machine_as_test(Leadership, settings=settings(max_examples=100, deadline=None))


def test_the_parent_of_a_first_card_is_empty() -> None:
    assert tip_id(None) == ""
    assert tip_id(Tip(FIRST, (attest(D, FIRST),))) == FIRST.id


def test_nothing_goes_out_while_the_runs_new_key_is_not_here_and_all_of_it_after() -> None:
    state = begun().made(checkpoint(10))
    waits = next_card(state, view(lacks_key=True, ending=True), 0.0)
    assert waits.action == "wait"
    assert "the run's new key is not here yet" in waits.why
    assert next_card(state, view(), 0.0).action == "publish"
    untold = begun().signed(FIRST)
    assert next_card(untold, view(lacks_key=True), 0.0).action == "wait"
    assert next_card(untold, view(), 0.0).action == "tell"
