"""Mends a store from peers: damaged blobs go missing chunk by chunk, and are fetched again.

A peer that runs does it when it is asked over its control API; where none runs, one is opened for it.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from paris_p2p.envelope import Envelope
from paris_p2p.errors import BlobError, ParisError, StoreError, SwarmError, UsageError
from paris_p2p.invite import Invite
from paris_p2p.node.control import Question
from paris_p2p.node.host import Host, load_spec, open_host
from paris_p2p.node.joining import join_run
from paris_p2p.node.run_node import RunNode, opened
from paris_p2p.node.stock import stocked
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.records import BlobRef, Hash
from paris_p2p.spec import RunSpec
from paris_p2p.store.blob_check import BlobFinding, left_over_again
from paris_p2p.store.data_dir import DataDirLock

HEAL = "heal"  # the question's name
MAX_ASKED = 64

# healed: fetched again, wholly or in part. right: there was nothing to mend. dropped: nothing here needs it,
# and it is gone. missing: nobody who was reached has it. left: a run that is not open here may need it.
HealOutcome = Literal["healed", "right", "dropped", "missing", "left"]


class HealRequest(BaseModel):
    """Names the blobs to look at."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    blobs: Annotated[tuple[Hash, ...], Field(max_length=MAX_ASKED)]


class Healed(BaseModel):
    """Says what became of each blob, with words where it could not be mended."""

    model_config = ConfigDict(frozen=True)

    outcomes: dict[str, HealOutcome]
    words: dict[str, str] = {}


def heal_questions(node: RunNode) -> dict[str, Question]:
    """Returns what a peer that runs may be asked about its store."""

    async def heal(body: bytes) -> Healed:
        try:
            wanted = HealRequest.model_validate_json(body).blobs
        except ValidationError as error:
            raise UsageError(f"the question is no list of blobs: {str(error)[:160]}") from error
        return await heal_blobs([node], wanted)

    return {HEAL: heal}


async def heal_blobs(nodes: Sequence[RunNode], blobs: Sequence[str]) -> Healed:
    """Looks at each blob again, and fetches what is damaged from the peers of the run that needs it.

    `nodes` are of one host, whose store other runs may share: a blob that none of the nodes needs goes only
    where no other run has a folder beside those.
    """
    outcomes: dict[str, HealOutcome] = {}
    words: dict[str, str] = {}
    for blob in blobs:
        needing = await asyncio.to_thread(_needing, nodes, blob)
        if not needing and (others := other_runs(nodes[0].host)):
            outcomes[blob], said = "left", f"none of the open runs needs it, and run {others[0][:16]}… may"
        for node in needing or ([] if outcomes.get(blob) == "left" else nodes[:1]):
            outcomes[blob], said = await _heal(node, blob)
            if outcomes[blob] != "missing":  # what one run's peers do not have, another's may
                break
        if said:
            words[blob] = said
    return Healed(outcomes=outcomes, words=words)


def other_runs(host: Host) -> list[str]:
    """Returns the runs that have a folder in the host's data directory, and are not open."""
    folder = host.settings.data_dir / "runs"
    there = {path.name for path in folder.iterdir() if path.is_dir()} if folder.is_dir() else set()
    return sorted(there - set(host.members))


def _needing(nodes: Sequence[RunNode], blob: str) -> list[RunNode]:
    """Returns the nodes whose runs name the blob, or keep it while it is in use."""
    return [node for node in nodes if _named(node, blob) is not None or blob in node.kept_blobs()]


async def _heal(node: RunNode, blob: str) -> tuple[HealOutcome, str]:
    store = node.host.store
    try:
        if store.has(blob) and not await asyncio.to_thread(store.verify, blob):
            return "right", ""
    except (BlobError, StoreError):  # neither its bytes nor its manifest: all of it has to come
        await asyncio.to_thread(store.delete, blob)
    except OSError as error:
        if error.errno != errno.EIO:  # it may be read in a while, as when too many files are open
            return "missing", f"it cannot be read now: {error.strerror or error}"
        await asyncio.to_thread(store.delete, blob)  # the disk does not give it back
        return await _fetch(node, blob, f"the disk said {error.strerror or error}; ")
    return await _fetch(node, blob, "")


async def _fetch(node: RunNode, blob: str, why: str) -> tuple[HealOutcome, str]:
    store = node.host.store
    known = await asyncio.to_thread(_named, node, blob)
    if known is None:
        manifest = await asyncio.to_thread(store.manifest, blob)
        if blob not in node.kept_blobs() or manifest is None:
            await asyncio.to_thread(store.delete, blob)
            return "dropped", f"{why}no run here needs it any more"
        known = BlobRef(id=blob, size_bytes=manifest.size_bytes), node.run
    try:
        await node.fetch([known[0]], known[1])
    except (BlobError, SwarmError, StoreError) as error:
        return "missing", f"{why}{error}"
    return "healed", ""


def _named(node: RunNode, blob: str) -> tuple[BlobRef, str] | None:
    """Returns a blob that the run names, and under what its holders announce it."""
    for slot in tuple(node.board.slots):
        tip = node.board.tip(slot)
        for ref in node.rounds.refs(tip.card.record) if tip is not None else ():
            if ref.id == blob:
                return ref, tip.card.id if tip is not None else ""
    return next(((one.blob, node.run) for one in stocked(node) if one.blob.id == blob), None)


@dataclass(frozen=True)
class Damage:
    """Holds what is to be mended in a directory where no peer runs."""

    blobs: tuple[str, ...]
    runs: tuple[str, ...]  # all that have a folder there; a RunSpec that is damaged is fetched too


async def heal_home(
    settings: PeerSettings,
    peers: Sequence[str],
    damage: Damage,
    said: Callable[[str], None] = lambda _: None,
) -> Healed:
    """Joins the runs of a data directory to mend it: it is locked meanwhile.

    StoreError where a peer runs there; UnreachableError where nobody of `peers` answers.
    """
    nodes: list[RunNode] = []
    async with open_host(settings, peers) as host, AsyncExitStack() as stack:
        for run_id in damage.runs:
            try:
                spec = await _run_of(host, run_id, peers)
                nodes.append(await stack.enter_async_context(opened(host, spec)))
            except ParisError as error:
                said(f"run {run_id[:16]}… could not be joined: {error}")
        return await heal_blobs(nodes, damage.blobs) if nodes else Healed(outcomes={})


async def _run_of(host: Host, run_id: str, peers: Sequence[str]) -> Envelope[RunSpec]:
    """Returns a run's verified RunSpec, from this disk or from peers."""
    known = load_spec(host.settings.data_dir, run_id)
    return known if known is not None else await join_run(host, Invite(run=run_id, peers=tuple(peers)))


def clear_left_over(home: Path, found: Sequence[BlobFinding]) -> int:
    """Deletes what killed processes left of blobs, and returns how many files; StoreError where a peer runs.

    What no writer of ours leaves is somebody's and stays, and so does what a peer took up again since.
    """
    with DataDirLock(home):
        ours = [one.path for one in found if left_over_again(one.path) is not None]
        for path in ours:
            path.unlink(missing_ok=True)
    return len(ours)
