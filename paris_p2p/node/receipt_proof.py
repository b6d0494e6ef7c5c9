"""Makes the file that proves who made what of a run, and verifies one, without a network."""

from __future__ import annotations

import time
from typing import Any

from paris_p2p.envelope import Envelope, open_envelope
from paris_p2p.errors import MissingKeyError, UsageError
from paris_p2p.keyring import Keyring
from paris_p2p.node.kept_history import open_told, round_ref, told_tip
from paris_p2p.node.owners_word import Opener
from paris_p2p.node.run_history import HistorySource, RunHistory, key_finder, updates_in
from paris_p2p.receipt_file import ProvenSlot, ReceiptFile
from paris_p2p.rules.chain import Chain, whose_fault
from paris_p2p.rules.history import lineage, proven
from paris_p2p.rules.run_state import RunState, run_state
from paris_p2p.spec import RunSpec, open_run
from paris_p2p.veil import open_sealed, open_spec, seal_spec


def proof_of(found: RunHistory, source: HistorySource) -> ReceiptFile:
    """Returns the signed records that a run's receipts follow from."""
    slots = []
    for slot, links in found.links.items():
        wanted = {ref.id for link in links for ref in link.tip.card.record.rounds} & set(found.merged)
        slots.append(
            ProvenSlot(
                slot=slot,
                tips=tuple(told_tip(link.tip) for link in links),
                rounds=tuple(data for _, data in source.kept.rounds(slot, wanted)),
            )
        )
    is_sealed, ring = source.run.record.private, source.ring

    def veiled(data: bytes) -> bytes:
        return seal_spec(data, ring) if is_sealed else data

    return ReceiptFile(
        run=veiled(source.run.data),
        sealed=is_sealed,
        notices=tuple(notice.data for notice in source.word.chain.notices),
        certificates=tuple(veiled(one.data) for one in source.word.certificates),
        slots=tuple(slots),
    )


def verify_proof(proof: ReceiptFile, ring: Keyring) -> RunHistory:
    """Returns what a file proves; `ring` has the keys where the run is private.

    Every signature is verified, notices must follow one another, and a tip counts as it does for peers.
    RecordError and its kin for what does not hold, MissingKeyError for a private run's without its keys.
    """
    if proof.sealed and ring.keys:
        opened_ones = tuple(open_spec(one, ring) for one in proof.certificates)
        proof = proof.model_copy(update={"run": open_spec(proof.run, ring), "certificates": opened_ones})
    run = None if proof.sealed and not ring.keys else open_run(proof.run)
    if run is None or (run.record.private and not ring.keys):
        raise MissingKeyError(
            "these are receipts of a private run, which its members alone can read; "
            "name the folder of the run, or of a peer that takes part, before --verify"
        )
    opener = _opener(run, ring)
    state = _state(run, proof, opener)
    links, merged, now_s = {}, {}, time.time()
    for part in proof.slots:
        opened = (proven(open_told(told, opener, part.slot), state, now_s) for told in part.tips)
        links[part.slot] = lineage(tip for tip in opened if tip is not None)
        named = {ref.id for link in links[part.slot] for ref in link.tip.card.record.rounds}
        for data in part.rounds:
            if (id := round_ref(data).id) in named:
                merged[id] = updates_in(data, run.id, part.slot, opener, state, key_finder(ring))
    return RunHistory(state, links, merged)


def _state(run: Envelope[RunSpec], proof: ReceiptFile, opener: Opener) -> RunState:
    chain = Chain(run.id, run.record.owner)
    for data in proof.notices:
        chain = chain.add(opener(data, ("notice",)))
    if chain.fork is not None:
        raise UsageError(f"the file's notices contradict one another: {whose_fault(chain.fork)}")
    if chain.number != len(proof.notices):
        raise UsageError(f"notice {chain.number + 1} is missing in the file; ask for another copy")
    certificates = [open_envelope(data, run=run.id, kinds=("certificate",)) for data in proof.certificates]
    return run_state(run.id, run.record, chain.notices, time.time(), certificates)


def _opener(run: Envelope[RunSpec], ring: Keyring) -> Opener:
    """Returns what verifies the records of a run, and opens them where it is private."""

    def opened(data: bytes, kinds: tuple[str, ...]) -> Envelope[Any]:
        if run.record.private:
            return open_sealed(data, ring, run.id, kinds)
        return open_envelope(data, run=run.id, kinds=kinds)

    return opened
