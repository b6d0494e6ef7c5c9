"""From what an owner types to what a notice says: whom a word means, which card, which numbers, and whether
the run can be changed so. Pure functions of what is known of the run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from paris_p2p.errors import RecordError, UsageError
from paris_p2p.handed_word import CardPlace, SlotPlaces
from paris_p2p.identity import peer_id_to_bytes
from paris_p2p.key_box import is_key
from paris_p2p.notice_words import peer_words
from paris_p2p.owner_records import (
    FOREVER_S,
    MAX_KEPT,
    RIGHTS,
    Admit,
    AnyChange,
    End,
    Extend,
    Pause,
    Resume,
    Revoke,
    RevokeCard,
    Right,
)
from paris_p2p.rules.effective import extended
from paris_p2p.rules.run_state import Certificate, RunState
from paris_p2p.spec import RunSpec

MAX_PREVIEW_BYTES = 1200  # of all prompts; a notice has 2,048 bytes, sealed or not
MAX_SHOWN = 40  # letters of what somebody typed wrongly
MIN_ENDING = 4  # letters of a peer id that may stand for it
PEER_ID_LETTERS = 52
_COPY = "copy it again from `paris-peer status` on its machine"


def find_peer(
    word: str, known: Iterable[str], names: Mapping[str, str], machines: Mapping[str, str] | None = None
) -> str:
    """Returns the peer that a word means: its id, a unique ending of the id of a known one, or its name.

    A name that another peer's id ends in, or that two peers gave themselves, means neither. `machines` names
    the peer of each generator's machine: a name that both bear means the peer. UsageError.
    """
    try:
        peer_id_to_bytes(word)
    except RecordError:
        pass
    else:
        if not is_key(word):
            raise UsageError(f"{word!r} is nobody's peer id: one letter or more is wrong; {_COPY}")
        return word
    peers = dict.fromkeys((*known, *names))
    meant = [peer for peer in peers if names.get(peer) == word]
    if len(word) >= MIN_ENDING:
        meant += [peer for peer in peers if peer.endswith(word) and peer not in meant]
    meant = [peer for peer in meant if (machines or {}).get(peer) not in meant]
    if len(meant) == 1:
        return meant[0]
    listed = "; ".join(_called(peer, names) for peer in (meant or list(peers))[:8])
    if meant:
        raise UsageError(f"{word!r} may mean {len(meant)} peers: {listed}; write the whole id")
    if word.startswith("12D3Koo"):
        raise UsageError(
            f"{word[:64]!r} is not a peer id: it has {len(word)} letters where {PEER_ID_LETTERS} are due, or "
            f"one that cannot be; {_COPY}"
        )
    raise UsageError(
        f"{word[:64]!r} is not a peer id (12D3Koo…), nor the end of one or a name that is known here"
        + (f"; there are {listed}" if peers else "; write the whole id, which `paris-peer status` shows")
    )


def admission(peer: str, rights: Sequence[Right], until_s: float, name: str, now_s: float) -> Admit:
    """Returns what lets a peer take part. UsageError for a date that is over."""
    if until_s <= now_s:
        raise UsageError("--until names a date that is over; name a later one")
    change: Admit = made(Admit, peer=peer, rights=tuple(rights), until=min(until_s, FOREVER_S), name=name)
    return change


def revocation(
    peer: str,
    state: RunState,
    certificates: Iterable[Certificate],
    *,
    since_s: float | None,
    with_admissions: bool,
    next_key: str,
) -> list[AnyChange]:
    """Returns what ends a peer's part.

    Those that it admitted stay, unless `with_admissions`: named by the notice, as many as it holds, and the
    others admitted by notices of their own before it. UsageError.
    """
    if peer == state.signed.owner_node:
        raise UsageError(
            "that is the run's own node, whose word all others rest on, and it cannot be revoked; "
            "if its key was stolen, make a new run"
        )
    if state.is_revoked(peer) and since_s is None and not with_admissions:
        raise UsageError(f"{peer_words(peer, names_in(state))} is revoked already; nothing was said")
    if since_s is not None and since_s > state.now_s:
        raise UsageError("--since names a date that has not come; name an earlier one, or leave it out")
    kept = [] if with_admissions else admitted_by(peer, state, certificates)
    # Machines' generators first: these fall with their machine later, which a notice of their own knows not.
    kept.sort(key=lambda one: not one.record.companion_of)
    named = tuple(one.record.peer for one in kept)[:MAX_KEPT]
    more: list[AnyChange] = [
        Admit(
            peer=one.record.peer,
            rights=tuple(right for right in one.record.rights if right != "admit"),
            until=one.record.expires_at,
        )
        for one in kept
        if one.record.peer not in named
    ]
    return [*more, made(Revoke, peer=peer, since=since_s, keeps=named, next_key=next_key)]


def admitted_by(delegate: str, state: RunState, certificates: Iterable[Certificate]) -> list[Certificate]:
    """Returns the certificates of a delegate that hold now, one for each peer, the oldest first."""
    by_peer: dict[str, Certificate] = {}
    for one in sorted(certificates, key=lambda one: (one.record.issued_at, one.id)):
        peer = one.record.peer
        holds = one.signer == delegate and one.record.expires_at > state.now_s
        admissions = state.admissions.get(peer, ())
        if holds and not state.is_revoked(peer) and any(each.by == delegate for each in admissions):
            by_peer[peer] = one
    return list(by_peer.values())


def card_revocation(slot: SlotPlaces, word: str, back: int) -> RevokeCard:
    """Returns what takes back a card: the tip, or the one that `word` names by its seq or the beginning of
    its id, or the last `back` cards. UsageError.
    """
    if not slot.cards:
        raise UsageError(f"{slot.slot} has no attested card, so there is nothing to take back")
    if word and back:
        raise UsageError("name a card or give --back, not both")
    if back > len(slot.cards):
        raise UsageError(
            f"--back {back}: the newest {len(slot.cards)} attested cards of {slot.slot} are known here"
        )
    card = _named(slot, word) if word else slot.cards[max(back, 1) - 1]
    return RevokeCard(slot=slot.slot, card=card.card, place=card.seq, floor=slot.floor)


def _named(slot: SlotPlaces, word: str) -> CardPlace:
    is_seq = word.isdecimal() and len(word) < 16
    meant = [
        card
        for card in slot.cards
        if (is_seq and card.seq == int(word))
        or (len(word) >= MIN_ENDING and card.card.startswith(word.lower()))
    ]
    if len(meant) == 1:
        return meant[0]
    known = ", ".join(f"seq {card.seq} ({card.card[:8]}…)" for card in slot.cards[:8])
    raise UsageError(f"{word[:64]!r} is no card of {slot.slot} that is known here; there are {known}")


def extension(state: RunState, **numbers: float | None) -> Extend:
    """Returns what changes the named numbers of a run; UsageError where the run cannot have them."""
    spec = state.spec
    change: Extend = made(Extend, **numbers)
    now = {
        "total_steps": spec.training.total_steps,
        "decay_steps": spec.training.decay_steps,
        "checkpoint_s": spec.timing.checkpoint_s,
        "tolerance": spec.gate.tolerance,
    }
    if not any(value is not None for value in numbers.values()):
        raise UsageError(
            "name what is to change: --total-steps, --decay-steps, --checkpoint-s or --tolerance; they are "
            + ", ".join(f"{name} {value:,g}" for name, value in now.items())
        )
    if all(value is None or value == now[name] for name, value in numbers.items()):
        raise UsageError("the run has those numbers already; nothing was said")
    try:
        RunSpec.model_validate(extended(spec, change).model_dump())
    except ValidationError as error:
        raise UsageError(f"the run cannot have these numbers: {error.errors()[0]['msg']}") from error
    return change


def new_previews(state: RunState, prompts: Sequence[str]) -> Extend:
    """Returns what sets the prompts of preview clips, none to end them; UsageError for what changes nothing
    or has no room in a notice.
    """
    change: Extend = made(Extend, previews=tuple(prompts))
    if change.previews == state.spec.previews:
        raise UsageError("the run has those previews already; nothing was said")
    if (size := sum(len(prompt.encode()) for prompt in prompts)) > MAX_PREVIEW_BYTES:
        raise UsageError(
            f"these prompts have {size} bytes, and a notice room for {MAX_PREVIEW_BYTES}; shorten"
        )
    return change


def check_sense(change: AnyChange, state: RunState) -> None:
    """Raises UsageError for a change that changes nothing, or comes too late."""
    if isinstance(change, Resume) and state.paused is None:
        raise UsageError("the run is not paused; nothing was said")
    if isinstance(change, Pause | Resume | End | Extend) and state.ended is not None:
        raise UsageError(f"the run's training was ended by notice {state.ended.record.seq}, for good")


def names_in(state: RunState) -> dict[str, str]:
    """Returns what the owner calls its members, by peer id."""
    named = {peer: [one.name for one in held if one.name] for peer, held in state.admissions.items()}
    return {peer: names[-1] for peer, names in named.items() if names}


def machines_in(state: RunState) -> dict[str, str]:
    """Returns the peer of each generator's machine, by the generator's id, as those say that let it in."""
    return {
        peer: one.companion_of for peer, held in state.admissions.items() for one in held if one.companion_of
    }


def made(kind: type[Any], **fields: Any) -> Any:
    """Makes a change; UsageError for a value that none of its kind can have."""
    try:
        return kind(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        given = first["input"]
        if isinstance(given, str) and len(given) > MAX_SHOWN:
            given = f"{given[:MAX_SHOWN]}…"
        raise UsageError(f"{where} {given!r}: {first['msg']}") from error


def rights_in(words: str) -> tuple[Right, ...]:
    """Returns the rights in a list with commas between."""
    given = words.split(",")
    return tuple(right for right in RIGHTS if right in given)


def known_card(slot: str, card: str, place: int, floor: int) -> RevokeCard:
    """Returns what takes back a card of which a person knows all that there is to know."""
    change: RevokeCard = made(RevokeCard, slot=slot, card=card.lower(), place=place, floor=floor)
    return change


def _called(peer: str, names: Mapping[str, str]) -> str:
    return f"{names[peer]} {peer}" if names.get(peer) else peer
