"""What a run is by now, for a person and as JSON: `paris-run state`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from paris_p2p.cli.crew_words import crew_json, crew_words
from paris_p2p.notice_words import change_words, date_words, notice_words, peer_words
from paris_p2p.owner_records import FOREVER_S, RIGHTS, Right
from paris_p2p.shown import FIELD_LETTERS, shown

if TYPE_CHECKING:
    from paris_p2p.rules.run_state import RunState
    from paris_p2p.spec import RunSpec, ShardRef

_INDENT = "  "


def state_lines(state: RunState, names: Mapping[str, str], *, chain: bool = True) -> list[str]:
    """Returns the chain of notices in words, unless it is not wanted, and what follows from it."""
    signed = state.signed
    lines = [
        f"run {shown(signed.name, FIELD_LETTERS)} ({state.run[:16]}…), {_kind(signed)}",
        f"now: {_phase(state)}",
        f"training: {crew_words(state.spec.crew)}",
    ]
    if chain:
        told = [_INDENT + shown(notice_words(notice, names)) for notice in state.notices]
        lines += ["notices:" if told else "notices: none", *told]
    for heading, rows in _sections(state, names):
        lines += [f"{heading}:", *(_INDENT + shown(row) for row in rows)] if rows else []
    return lines


def state_json(state: RunState, names: Mapping[str, str]) -> dict[str, Any]:
    """Returns the same as JSON holds it; dates are Unix times, null is never."""
    return {
        "run": state.run,
        "name": state.signed.name,
        "members_only": state.signed.members_only,
        "private": state.signed.private,
        "notices": [
            {
                "number": notice.record.seq,
                "id": notice.id,
                "issued_at": notice.record.issued_at,
                "words": change_words(notice.record.change, names),
                **notice.record.change.model_dump(mode="json"),
            }
            for notice in state.notices
        ],
        "paused": state.paused.record.seq if state.paused else None,
        "ended": state.ended.record.seq if state.ended else None,
        "members": [_member(state, peer, names) for peer in members(state)],
        "revoked": [
            {"peer": peer, "name": names.get(peer, ""), "notice": held[-1].number, "since": held[-1].since_s}
            for peer, held in state.revocations.items()
            if state.is_revoked(peer)
        ],
        "revoked_cards": [
            {"slot": slot, "notice": one.number, "card": one.card, "seq": one.place, "floor_epoch": one.epoch}
            for slot, floors in state.floors.items()
            for one in floors
        ],
        "numbers": {name: {"signed": old, "now": new} for name, old, new in _numbers(state)},
        "slots": list(state.spec.slots),
        "dropped_experts": list(state.spec.dropped_experts),
        "clips": {
            "train": {"signed": _clips(state.signed.train_shards), "now": _clips(state.spec.train_shards)},
            "gate": {"signed": _clips(state.signed.gate_shards), "now": _clips(state.spec.gate_shards)},
        },
        "crew": crew_json(state.spec.crew),
        "keys": len(state.key_hashes),
    }


def members(state: RunState) -> list[str]:
    """Returns the peers that have a part in the run by its owner's word, the run's own node first."""
    named = (state.signed.owner_node, *state.signed.gate.attestors, *state.admissions)
    return [peer for peer in dict.fromkeys(named) if state.is_named(peer)]


def _kind(spec: RunSpec) -> str:
    return "private" if spec.private else "members only" if spec.members_only else "open to everybody"


def _phase(state: RunState) -> str:
    for word, notice in (("ended", state.ended), ("paused", state.paused)):
        if notice is not None:
            reason = getattr(notice.record.change, "reason", "")
            return f"{word} by notice {notice.record.seq}" + (f": {shown(reason)}" if reason else "")
    return "open for training"


def _sections(state: RunState, names: Mapping[str, str]) -> Iterator[tuple[str, list[str]]]:
    yield "members", [_member_words(state, peer, names) for peer in members(state)]
    yield (
        "revoked",
        [
            f"{peer_words(peer, names)} by notice {held[-1].number}: "
            f"what it signed since {date_words(held[-1].since_s)} is void"
            for peer, held in state.revocations.items()
            if state.is_revoked(peer)
        ],
    )
    yield (
        "cards taken back",
        [
            f"{slot} from seq {one.place} on, of epochs below {one.epoch} (notice {one.number})"
            for slot, floors in state.floors.items()
            for one in floors
        ],
    )
    yield "numbers that changed", [f"{name} {old:,g} → {new:,g}" for name, old, new in _numbers(state)]
    yield "experts and clips", list(_growth(state))
    if state.key_hashes:
        yield "keys", [f"{len(state.key_hashes)}; number {len(state.key_hashes)} is in force"]


def _member(state: RunState, peer: str, names: Mapping[str, str]) -> dict[str, Any]:
    held = [one for one in state.admissions.get(peer, ()) if one.holds(state.now_s)]
    rights = state.rights(peer)
    until_s = max((one.until_s for one in held), default=FOREVER_S)
    return {
        "peer": peer,
        "name": names.get(peer, ""),
        "rights": [right for right in RIGHTS if right in rights],
        "until": None if until_s >= FOREVER_S else until_s,
        "by": sorted({one.by for one in held}) or [state.signed.owner],
    }


def _member_words(state: RunState, peer: str, names: Mapping[str, str]) -> str:
    one = _member(state, peer, names)
    rights: list[Right] = one["rights"]
    until = "" if one["until"] is None else f" until {date_words(one['until'])}"
    owner = state.signed.owner
    by = " and ".join("the owner" if signer == owner else peer_words(signer, names) for signer in one["by"])
    node = ", the run's own node" if peer == state.signed.owner_node else ""
    machine = next((held.companion_of for held in state.admissions.get(peer, ()) if held.companion_of), "")
    if machine:
        names = {one: name for one, name in names.items() if one != peer}  # it is the machine's
        node = f", the generator of {peer_words(machine, names)}"
    return f"{peer_words(peer, names)}{node}: {', '.join(rights) or 'nothing'}{until}, by {by}"


def _numbers(state: RunState) -> Iterator[tuple[str, float, float]]:
    """Yields (name, as it was signed, as it is now) of the numbers that notices changed."""
    old, new = state.signed, state.spec
    pairs = {
        "total_steps": (old.training.total_steps, new.training.total_steps),
        "decay_steps": (old.training.decay_steps, new.training.decay_steps),
        "checkpoint_s": (old.timing.checkpoint_s, new.timing.checkpoint_s),
        "tolerance": (old.gate.tolerance, new.gate.tolerance),
    }
    yield from ((name, *pair) for name, pair in pairs.items() if pair[0] != pair[1])


def _growth(state: RunState) -> Iterator[str]:
    old, new = state.signed, state.spec
    if (old.experts, old.dropped_experts) != (new.experts, new.dropped_experts):
        yield f"experts now: {', '.join(slot for slot in new.slots if slot != 'router')}"
    for child, parent in enumerate(new.parents, new.experts - len(new.parents)):
        yield f"expert-{child} comes from expert-{parent}"
    for expert in new.dropped_experts:
        yield f"expert-{expert} is out of the mixture"
    if old.train_shards != new.train_shards or old.gate_shards != new.gate_shards:
        yield (
            f"clips {_clips(old.train_shards):,} → {_clips(new.train_shards):,}, "
            f"for the gate {_clips(old.gate_shards):,} → {_clips(new.gate_shards):,}"
        )


def _clips(shards: tuple[ShardRef, ...]) -> int:
    return sum(shard.clips for shard in shards)
