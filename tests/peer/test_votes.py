"""An attestor's choices: one card per place, whole or not at all, known after a crash."""

from __future__ import annotations

from pathlib import Path

import pytest

from paris_p2p.node.owners_word import plain_opener
from paris_p2p.peer.votes import Votes
from paris_p2p.store.ledger import Ledger
from tests.rules.made import RUN, SLOT, A, D, attest, card


def test_a_choice_and_its_signature_are_known_after_a_restart(tmp_path: Path) -> None:
    made = card(A)
    Votes(Ledger(tmp_path), plain_opener(RUN)).put(made, attest(D, made))
    again = Votes(Ledger(tmp_path), plain_opener(RUN))
    assert again.chosen(card(A, steps=1000).record) == made.id  # the same place
    assert again.chosen(card(A, made).record) is None
    vote = again.newest(SLOT)
    assert vote is not None
    assert (vote[0].id, vote[1].record.card) == (made.id, made.id)
    assert again.newest("router") is None


def test_a_crash_between_signature_and_choice_leaves_the_signature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, ledger = card(A), Ledger(tmp_path)
    put = Ledger.put

    def killed(self: Ledger, key: str, data: bytes) -> None:
        put(self, key, data)
        raise OSError("killed")

    monkeypatch.setattr(Ledger, "put", killed)
    with pytest.raises(OSError, match="killed"):
        Votes(ledger, plain_opener(RUN)).put(made, attest(D, made))
    assert Votes(ledger, plain_opener(RUN)).newest(SLOT) is not None


def test_a_damaged_choice_still_binds_and_fails_nobody(tmp_path: Path) -> None:
    ledger, made = Ledger(tmp_path), card(A)
    ledger.put(f"attested/{SLOT}/{made.record.epoch}/{made.record.seq}", b"\xff\xfe")
    assert Votes(ledger, plain_opener(RUN)).chosen(made.record) not in (None, made.id)


@pytest.mark.parametrize("damage", [b"", b"\xc1", b"\x92\x01\x02", b"\x01", b"\x91\xc4\x00"])
def test_a_damaged_signature_in_the_ledger_is_forgotten_not_fatal(tmp_path: Path, damage: bytes) -> None:
    ledger = Ledger(tmp_path)
    ledger.put(f"vote/{SLOT}", damage)
    assert Votes(ledger, plain_opener(RUN)).newest(SLOT) is None
