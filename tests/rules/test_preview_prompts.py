"""The prompts of previews: in a RunSpec, or by a notice that older peers take as one that changes nothing."""

from __future__ import annotations

import pytest

from paris_p2p.envelope import decode
from paris_p2p.errors import UsageError
from paris_p2p.notice_words import change_words
from paris_p2p.owner_records import Change, Extend
from paris_p2p.preparation.what_to_say import new_previews
from paris_p2p.rules.woken import woken_at_s
from tests.rules.made_notices import chain_of, made_run, state_of

PROMPTS = ("a red ball", "two dogs")
RUN = made_run()


class OldExtend(Change):
    """Is what a peer of before reads of an `extend`."""

    act: str = "extend"
    total_steps: int | None = None


def test_a_run_without_prompts_has_the_bytes_that_it_had() -> None:
    assert "previews" not in decode(RUN.payload)
    assert decode(made_run(previews=PROMPTS).payload)["previews"] == PROMPTS


def test_a_notice_changes_the_prompts_and_nothing_else() -> None:
    before, after = state_of(RUN), state_of(RUN, Extend(previews=PROMPTS))
    assert after.spec.previews == PROMPTS
    assert after.spec.model_copy(update={"previews": ()}) == before.spec
    assert state_of(RUN, Extend(previews=PROMPTS), Extend(total_steps=9)).spec.previews == PROMPTS
    assert state_of(RUN, Extend(previews=PROMPTS), Extend(previews=())).spec.previews == ()
    assert woken_at_s(after, "expert-0") == 0.0


def test_an_older_peer_reads_it_as_an_extend_that_changes_nothing() -> None:
    (notice,) = chain_of(RUN.id, [Extend(previews=PROMPTS)])
    old = OldExtend.model_validate(decode(notice.payload)["change"])
    assert old.total_steps is None


def test_words_and_limits_of_prompts() -> None:
    assert change_words(Extend(previews=PROMPTS), {}) == 'previews: "a red ball", "two dogs"'
    both = change_words(Extend(total_steps=5, previews=()), {})
    assert both == "changed the run's numbers: total steps 5; previews: none"
    state = state_of(RUN, Extend(previews=PROMPTS))
    with pytest.raises(UsageError, match="has those previews already"):
        new_previews(state, PROMPTS)
    with pytest.raises(UsageError, match="shorten"):
        new_previews(state, ("ü" * 150,) * 8)
    with pytest.raises(UsageError, match="previews"):
        new_previews(state, ("a",) * 9)
    with pytest.raises(UsageError, match="control characters"):
        new_previews(state, ("a\x1b[31m",))
