"""A peer says of itself and its run what `paris-peer status`, the live view and the control API show."""

from __future__ import annotations

import time
from typing import Any

from pydantic import BaseModel, ConfigDict

from paris_p2p.node.care_status import CareStatus
from paris_p2p.node.crew_status import CrewStatus, crew_status
from paris_p2p.node.governance import Governance, governance
from paris_p2p.node.node_figures import NodeFigures, node_figures
from paris_p2p.node.run_history import board_lines
from paris_p2p.node.run_node import RunNode
from paris_p2p.node.slot_news import slot_news
from paris_p2p.node.tallies import Tallies
from paris_p2p.rules.claims import lead_of
from paris_p2p.rules.refusals import words_of
from paris_p2p.rules.rest import rests, rests_until_s
from paris_p2p.rules.time_left import loss_trend, outlook_words, slot_pace
from paris_p2p.rules.tips import Tip
from paris_p2p.rules.woken import woken_at_s


class SlotStatus(BaseModel):
    model_config = ConfigDict(frozen=True)

    slot: str
    lead: str = ""  # peer id
    epoch: int = 0
    tip: str = ""  # card id
    tip_epoch: int = 0
    tip_seq: int = 0
    tip_age_s: float | None = None
    clips: int = 0
    steps: int = 0
    # on the gate's clips, with the slot's fixed noise: comparable from card to card
    loss: float | None = None
    card_loss: float | None = None  # on the noise drawn for this card: comparable with reference_loss alone
    reference_loss: float | None = None  # the best card's before it, on the same clips and noise
    lowered: int = 0  # how often its learning rate was lowered
    rests_until_s: float = 0.0  # Unix time; 0: it does not rest
    refusal: str = ""  # why the newest waiting card was refused
    attestations: int = 0
    pending: int = 0  # cards that wait for attestation
    news: str = ""  # what the slot waits for, where it does
    done: bool = False  # its last step is trained, or its owner ended the run
    crew: CrewStatus | None = None  # who trains it together, in a run with crews
    # by the last tips (rules/time_left.py); None: not known, or nobody may train now
    clips_per_s: float | None = None
    steps_per_s: float | None = None
    eta_s: float | None = None  # until its last step; None also where no end is set
    eta_low_s: float | None = None
    eta_high_s: float | None = None  # None beside an eta_s: it may take for ever
    loss_per_day: float | None = None  # slope of the gate's comparable loss, and its interval
    loss_per_day_low: float | None = None
    loss_per_day_high: float | None = None
    outlook: str = ""  # the same in words


class TrainingStatus(BaseModel):
    model_config = ConfigDict(frozen=True)

    slot: str
    epoch: int
    steps: int = 0
    clips: int = 0
    loss: float | None = None
    clips_per_s: float = 0.0
    wait_share: float = 0.0  # of a step's time spent waiting for data
    device: str = ""
    note: str = ""  # what it waits for before it trains, such as a download
    micro_batch_clips: int = 0  # through the network at once
    batch_clips: int = 0  # of one step
    recomputes: bool = False  # activations are computed twice, for memory
    crew_lead: str = ""  # of the crew that this peer works in; empty: it leads
    refused_updates: dict[str, int] = {}  # this peer's own: code of rules/rounds.py -> how many

    def at_once(self) -> str:
        """Says in words how much goes through the network at once."""
        twice = ", computing activations twice" if self.recomputes else ""
        return f"{self.micro_batch_clips} of {self.batch_clips} clips at once{twice}"


class Status(NodeFigures):
    """The run as this peer sees it."""

    at: float
    run: str
    name: str
    owner: str
    peer_id: str
    role: str
    phase: str
    why: str
    slots: tuple[SlotStatus, ...]
    training: TrainingStatus | None = None
    refused_cards: dict[str, int] = {}
    attested: int = 0
    checkpoint_s: float = 0.0  # the run's interval between checkpoints
    claim_s: float = 0.0  # how long a lead's claim holds without being renewed
    care: CareStatus | None = None  # of a volunteer's machine
    tallies: Tallies = Tallies()
    governance: Governance = Governance()


def slot_status(node: RunNode, slot: str, now_s: float) -> SlotStatus:
    tip, view = node.board.tip(slot), node.board.view(slot)
    lead = lead_of(view.claims, tip, now_s, node.spec.timing, view.heard, view.floor)
    pending, total_steps = len(node.board.pending(slot)), node.spec.training.total_steps
    done = tip is not None and 0 < total_steps <= tip.card.record.steps
    done |= node.state.ended is not None
    refusal = _newest_refusal(node, slot)
    woken_s = woken_at_s(node.state, slot)
    news = slot_news(view, lead, pending, now_s, done=done, refused=refusal, woken_s=woken_s)
    status: dict[str, Any] = {"slot": slot, "pending": pending, "news": news, "refusal": refusal}
    status |= {"done": done}
    status["crew"] = crew_status(node, slot, lead.signer if lead else "", now_s)
    if not (done or node.state.paused or rests(tip, now_s, node.spec.timing, woken_s)):
        status |= _outlook(node, slot, now_s)
    if lead is not None:
        status |= {"lead": lead.signer, "epoch": lead.record.epoch}
    if tip is not None:
        card = tip.card.record
        status |= {
            "tip": tip.card.id,
            "tip_epoch": card.epoch,
            "tip_seq": card.seq,
            "tip_age_s": node.tip_ages.age_s(slot, tip, now_s, time.monotonic()),
            "clips": card.clips,
            "steps": card.steps,
            **_losses(tip),
            "attestations": len(tip.attestations),
            "lowered": card.lowered,
            "rests_until_s": rests_until_s(tip, node.spec.timing, woken_s),
        }
    return SlotStatus(**status)


def _outlook(node: RunNode, slot: str, now_s: float) -> dict[str, Any]:
    """Returns when a slot is done by its last tips, and where its loss goes, as numbers and in words."""
    total_steps, lines = node.spec.training.total_steps, board_lines(node.board, slot)
    pace, trend = slot_pace(lines, total_steps, now_s), loss_trend(lines)
    found: dict[str, Any] = {"outlook": outlook_words(pace, trend, total_steps)}
    if pace is not None:
        found |= {
            "clips_per_s": pace.clips_per_s,
            "steps_per_s": pace.steps_per_s,
            "eta_s": pace.left_s,
            "eta_low_s": pace.left_low_s,
            "eta_high_s": pace.left_high_s,
        }
    if trend is not None:
        found |= {
            "loss_per_day": trend.per_day,
            "loss_per_day_low": trend.low,
            "loss_per_day_high": trend.high,
        }
    return found


def _losses(tip: Tip) -> dict[str, float | None]:
    """Returns the tip's gate losses: as attested by the peer that measured the lowest, and the middle one of
    the comparable ones.
    """
    lowest = min((one.record for one in tip.attestations), key=lambda record: record.loss)
    fixed = sorted(one.record.fixed_loss for one in tip.attestations if one.record.fixed_loss is not None)
    loss = fixed[len(fixed) // 2] if fixed else None
    return {"loss": loss, "card_loss": lowest.loss, "reference_loss": lowest.reference_loss}


def _newest_refusal(node: RunNode, slot: str) -> str:
    pending = node.board.pending(slot)
    newest = pending[-1].id if pending else ""
    return next(
        (words_of(one.record.reason) for one in node.board.refusals(slot) if one.record.card == newest), ""
    )


async def run_status(node: RunNode, *, role: str, phase: str, why: str, **more: Any) -> Status:
    """Returns the Status of one run on this host; `more` are the fields only a volunteer has."""
    now = time.time()
    return Status(
        at=now,
        run=node.run,
        name=node.spec.name,
        owner=node.owner,
        peer_id=node.peer_id,
        role=role,
        phase=phase,
        why=why,
        slots=tuple(slot_status(node, slot, now) for slot in node.spec.slots),
        refused_cards=dict(node.refused),
        checkpoint_s=node.spec.timing.checkpoint_s,
        claim_s=node.spec.timing.claim_s,
        tallies=node.tallies,
        governance=governance(node),
        **await node_figures(node.host, node.roles, node.versions),
        **more,
    )
