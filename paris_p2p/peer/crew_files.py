"""The files that a crew's states are made of, fetched, opened and named for a trainer or a gate: a card's
rounds, their updates, and the full card that they stand on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from paris_p2p.crew_records import MAX_ROUND_BYTES, SCALE_ONE, UpdateRecord
from paris_p2p.envelope import Envelope
from paris_p2p.errors import MissingKeyError, SealError
from paris_p2p.node.run_node import RunNode
from paris_p2p.records import BlobRef, CardRecord
from paris_p2p.round_file import decode_round
from paris_p2p.rules.round_checks import OpenedRound
from paris_p2p.training.crew_messages import Basis, RoundFiles, UpdateFile


async def read_rounds(node: RunNode, card: Envelope[CardRecord]) -> tuple[OpenedRound, ...]:
    """Returns the rounds of a card, fetched where they are not here. Raises RecordError for one that is none,
    and what `RunNode.readable` raises.
    """
    record = card.record
    if not record.rounds:
        return ()
    async with node.readable(record.rounds, card.id, f"rounds/{card.id}") as paths:
        # sixteen large ones take a second
        return await asyncio.to_thread(lambda: tuple(_opened(node, record.slot, path) for path in paths))


def _opened(node: RunNode, slot: str, path: Path) -> OpenedRound:
    with path.open("rb") as file:  # a card may name whatever lies here as a round
        data = file.read(MAX_ROUND_BYTES + 1)
    made = decode_round(data, node.run, slot)
    return OpenedRound(made, tuple(node.swarm.open(one.envelope, ("update",)) for one in made.updates))


def update_blobs(rounds: Sequence[OpenedRound]) -> list[BlobRef]:
    """Returns the blobs of all updates that rounds merged."""
    return [one.record.blob for each in rounds for one in each.updates]


def card_refs(card: CardRecord, rounds: Sequence[OpenedRound]) -> list[BlobRef]:
    """Returns all blobs that a card's state is made of."""
    return [card.weights, card.resume, *card.rounds, *update_blobs(rounds)]


async def fetch_card(node: RunNode, card: Envelope[CardRecord]) -> list[BlobRef]:
    """Returns all blobs of a card's state, which are here then."""
    rounds = await read_rounds(node, card)
    refs = card_refs(card.record, rounds)
    await node.fetch(refs, card.id)
    return refs


@asynccontextmanager
async def opened_each(
    node: RunNode, refs: Sequence[BlobRef], what: str, purpose: str
) -> AsyncIterator[tuple[Path | None, ...]]:
    """Yields the plain files of blobs as `RunNode.readable` does, None for one that does not open here: what
    one member sealed otherwise keeps nobody from reading the others'.
    """
    async with AsyncExitStack() as files:
        paths: list[Path | None] = []
        for ref in refs:
            opened = node.readable([ref], what, f"{purpose}/{ref.id}")
            try:
                paths += await files.enter_async_context(opened)
            except (SealError, MissingKeyError):
                paths.append(None)
        yield tuple(paths)


def named(update: Envelope[UpdateRecord], path: Path, *, late: int = 0, scale: int = SCALE_ONE) -> UpdateFile:
    """Returns what a trainer is told of an update and its file."""
    record = update.record
    return UpdateFile(
        update=update.id,
        signer=update.signer,
        path=path,
        steps=record.steps,
        clips=record.clips,
        first_clip=record.first_clip,
        late=late,
        scale=scale,
        notices=record.notices,
        train_loss=record.train_loss,
    )


@asynccontextmanager
async def opened_rounds(
    node: RunNode, what: str, rounds: Sequence[OpenedRound], purpose: str
) -> AsyncIterator[tuple[RoundFiles, ...]]:
    """Yields rounds with the files of their updates, fetched and readable while the block lasts; `what` is
    the card whose holders have them.
    """
    async with node.readable(update_blobs(rounds), what, purpose) as paths:
        rest = iter(paths)
        yield tuple(_files_of(one, [next(rest) for _ in one.updates]) for one in rounds)


def _files_of(one: OpenedRound, paths: Sequence[Path]) -> RoundFiles:
    made = one.made
    return RoundFiles(
        steps_before=made.steps_before,
        clips_before=made.clips_before,
        steps=made.steps,
        clips=made.clips,
        full=made.full,
        merged=made.merged,
        updates=tuple(
            named(update, path, late=each.late, scale=each.scale)
            for update, each, path in zip(one.updates, made.updates, paths, strict=True)
        ),
    )


@asynccontextmanager
async def opened_basis(
    node: RunNode, card: Envelope[CardRecord], rounds: Sequence[OpenedRound], purpose: str
) -> AsyncIterator[Basis]:
    """Yields the files of a card's state, all of them fetched and readable while the block lasts.

    A light card stands on its full card, whose files it names; of another the rounds led to its own files,
    and are not read.
    """
    record = card.record
    since = rounds if record.is_light else ()
    async with (
        node.readable([record.weights, record.resume], record.full or card.id, f"{purpose}/full") as full,
        opened_rounds(node, card.id, since, f"{purpose}/updates") as files,
    ):
        first = since[0].made if since else None
        yield Basis(
            card=card.id,
            weights_path=full[0],
            resume_path=full[1],
            start_steps=first.steps_before if first else record.steps,
            start_clips=first.clips_before if first else record.clips,
            merged_start=first.merged_before if first else record.merged,
            rounds=files,
        )
