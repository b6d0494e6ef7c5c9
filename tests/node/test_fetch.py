"""Downloads from many sources: liars dropped, silent ones left, crashes continued, full disks said; the
right bytes or an error.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paris_p2p.errors import BusyError, DiskFullError, ManifestError, MissingBlobError, UnreachableError
from paris_p2p.identity import Identity
from paris_p2p.node import blob_sources as sources_module
from paris_p2p.node import fetch as fetch_module
from paris_p2p.node import pulls
from paris_p2p.node.blob_sources import MAX_TURNS, SourceLedger
from paris_p2p.node.fetch import Fetcher
from paris_p2p.node.host import Host
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.records import BlobRef, Manifest
from paris_p2p.rules import chunks as chunks_module
from paris_p2p.rules.chunks import chunks_of
from paris_p2p.store.blobs import BlobStore
from paris_p2p.swarm.fake import FakeNetwork
from tests.node.seeders import Blob, SeededSwarm, Seeder, honest, made_blob, resized

BLOB = made_blob(40)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_module, "_ROUND_WAIT_S", 0.0)
    monkeypatch.setattr(chunks_module, "LEAST_CHUNK_BYTES", 1)  # so that tests of many chunks are quick


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


@pytest.fixture
def swarm() -> SeededSwarm:
    return SeededSwarm(FakeNetwork(), Identity.generate())


@pytest.fixture
def ledger() -> SourceLedger:
    return SourceLedger()


async def fetch(
    swarm: SeededSwarm,
    store: BlobStore,
    ledger: SourceLedger,
    blob: Blob = BLOB,
    *,
    progress: Callable[[int], None] | None = None,
    **more: Any,
) -> bytes:
    async with asyncio.timeout(30):
        path = await Fetcher(swarm, store, ledger, **more).one(blob.ref, swarm.sources, progress)
    return path.read_bytes()


# liars


@pytest.mark.parametrize(
    "lie",
    [
        {"wrong": frozenset(range(40))},
        {"wrong": frozenset({17})},
        {"sends_unasked": True},
        {"alter_manifest": lambda data: data[:-1] + bytes([data[-1] ^ 1])},
        {"alter_manifest": resized},
        {"alter_manifest": lambda data: b""},
        {"alter_manifest": lambda data: data + bytes(32)},
    ],
    ids=[
        "wrong chunks",
        "one wrong chunk",
        "unasked chunks",
        "wrong manifest",
        "wrong size in manifest",
        "no manifest",
        "long manifest",
    ],
)
async def test_a_lying_seeder_is_dropped_charged_not_asked_again_and_the_download_completes(
    swarm: SeededSwarm, store: BlobStore, ledger: SourceLedger, lie: dict[str, Any]
) -> None:
    liar = swarm.add(honest(BLOB, **lie))
    good = swarm.add(honest(BLOB, turns=20))  # so that the liar gets its turn
    assert await fetch(swarm, store, ledger) == BLOB.data
    assert good.served
    assert not ledger.allows(liar.peer)
    assert ledger.allows(good.peer)
    assert [what.split(": ")[0] for what in ledger.charged] == [liar.peer[-8:]]
    asked = (liar.asked.copy(), liar.manifests)
    other = made_blob(9, rng_seed=1)
    liar.blob = other
    swarm.add(honest(other))
    assert await fetch(swarm, store, ledger, other) == other.data
    assert (liar.asked, liar.manifests) == asked


async def test_a_liar_alone_brings_nothing_false_and_an_error_that_counts(
    swarm: SeededSwarm, store: BlobStore, ledger: SourceLedger
) -> None:
    swarm.add(honest(BLOB, wrong=frozenset(range(1, 40))))
    with pytest.raises(MissingBlobError, match=r"39 of 40 chunks .* asked 1 peers"):
        await fetch(swarm, store, ledger)
    assert store.have(BLOB.ref.id) == bytes([1, 0, 0, 0, 0])


async def test_a_wrong_size_in_a_card_is_not_charged_to_those_who_have_the_blob(
    swarm: SeededSwarm, store: BlobStore, ledger: SourceLedger
) -> None:
    good = swarm.add(honest(BLOB))
    lie = BlobRef(id=BLOB.ref.id, size_bytes=BLOB.ref.size_bytes + 1)
    with pytest.raises(ManifestError, match=r"should have 39878 bytes, its manifest says 39877"):
        await Fetcher(swarm, store, ledger).one(lie, swarm.sources)
    assert ledger.allows(good.peer)
    assert not good.asked
    assert await fetch(swarm, store, ledger) == BLOB.data


async def test_charges_stay_bounded_and_end_after_their_time(
    ledger: SourceLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources_module, "_MAX_BANS", 10)
    for number in range(50):
        ledger.charge(f"peer-{number:03}", f"chunk {number}")
    assert len(ledger.banned_until) == len(ledger.charged) == 10
    assert not ledger.allows("peer-049")
    ledger.banned_until["peer-049"] -= sources_module._BAN_S + 1
    assert ledger.allows("peer-049")


# several


async def test_several_seeders_are_used_side_by_side_and_a_fast_one_serves_more(
    swarm: SeededSwarm, store: BlobStore, ledger: SourceLedger
) -> None:
    blob = made_blob(800)
    fast, slow = swarm.add(honest(blob)), swarm.add(honest(blob, turns=400))
    assert await fetch(swarm, store, ledger, blob) == blob.data
    assert swarm.most_at_once == 2
    assert fast.served.total() > 2 * slow.served.total() > 0
    # at the end, those that the slow one holds up are asked for twice
    assert fast.asked.total() + slow.asked.total() < blob.count + 140


async def test_a_blob_scattered_over_partial_seeders_comes_together(
    swarm: SeededSwarm, store: BlobStore, ledger: SourceLedger
) -> None:
    parts = [swarm.add(Seeder(BLOB, frozenset(range(start, 40, 20)))) for start in range(20)]
    assert await fetch(swarm, store, ledger) == BLOB.data
    assert all(set(part.asked) <= part.have for part in parts)
    assert swarm.most_at_once <= MAX_TURNS


async def test_a_seeder_that_gets_chunks_meanwhile_is_asked_again_as_long_as_chunks_come(
    swarm: SeededSwarm, store: BlobStore, ledger: SourceLedger
) -> None:
    growing = swarm.add(Seeder(BLOB, frozenset({0})))

    async def sources() -> list[str]:
        growing.have = growing.have | {len(growing.have)}
        return [growing.peer]

    path = await Fetcher(swarm, store, ledger).one(BLOB.ref, sources)
    assert path.read_bytes() == BLOB.data


async def test_many_blobs_come_in_order_one_named_twice_comes_once(
    swarm: SeededSwarm, store: BlobStore, ledger: SourceLedger
) -> None:
    blobs = [made_blob(5, rng_seed=seed) for seed in range(5)]
    seeders = [swarm.add(honest(blob)) for blob in blobs]
    seen: list[int] = []
    refs = [blob.ref for blob in [*blobs, blobs[0]]]
    paths = await Fetcher(swarm, store, ledger).many(refs, swarm.sources, seen.append)
    assert [path.read_bytes() for path in paths] == [blob.data for blob in [*blobs, blobs[0]]]
    assert all(set(seeder.asked.values()) == {1} for seeder in seeders)
    assert seen == sorted(seen)
    assert seen[-1] == sum(blob.ref.size_bytes for blob in blobs)


async def test_two_fetches_of_one_blob_at_once_both_get_it(
    swarm: SeededSwarm, store: BlobStore, ledger: SourceLedger
) -> None:
    swarm.add(honest(BLOB))
    assert await asyncio.gather(*(fetch(swarm, store, ledger) for _ in range(3))) == [BLOB.data] * 3


# silent, leaving, empty-handed


async def test_a_silent_seeder_does_not_stall_the_download(
    swarm: SeededSwarm, store: BlobStore, ledger: SourceLedger
) -> None:
    silent = [swarm.add(honest(BLOB, silent=True)) for _ in range(3)]
    swarm.add(honest(BLOB))
    assert await fetch(swarm, store, ledger, silence_s=3600.0) == BLOB.data
    assert all(seeder.asked for seeder in silent)
    assert all(ledger.allows(seeder.peer) for seeder in silent)


async def test_sources_beyond_the_most_at_once_get_their_turn_when_others_fail(
    swarm: SeededSwarm, store: BlobStore, ledger: SourceLedger
) -> None:
    for _ in range(2 * MAX_TURNS):
        swarm.add(honest(BLOB, silent=True))
    swarm.add(honest(BLOB))
    assert await fetch(swarm, store, ledger, silence_s=0.01) == BLOB.data


@pytest.mark.parametrize("colluders", [1, 2, 4, 7])
async def test_colluders_that_sit_on_the_same_chunks_do_not_stall_the_download(
    swarm: SeededSwarm,
    store: BlobStore,
    ledger: SourceLedger,
    colluders: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chunks_module, "UNRATED_LATE_S", 0.01)  # the later ones sit down as soon as they may
    first = swarm.add(honest(BLOB, silent=True))
    echoes = [swarm.add(honest(BLOB, silent=True)) for _ in range(colluders - 1)]
    fetch_have = swarm.fetch_have

    async def have(peer: str, blob_id: str) -> bytes:
        if any(peer == echo.peer for echo in echoes):
            while not first.asked:
                await asyncio.sleep(0)
            return sum(1 << index for index in first.asked).to_bytes(8, "little")
        if peer != first.peer:  # the honest one comes when they sit
            while not all(echo.asked for echo in echoes):
                await asyncio.sleep(0)
        return await fetch_have(peer, blob_id)

    swarm.fetch_have = have  # type: ignore[method-assign]
    good = swarm.add(honest(BLOB))
    assert await fetch(swarm, store, ledger, silence_s=3600.0) == BLOB.data
    assert set(good.served) == set(range(40))


async def test_any_number_that_bring_nothing_leave_their_turns_to_the_one_that_does(
    swarm: SeededSwarm, store: BlobStore, ledger: SourceLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulls, "_WATCH_S", 0.01)
    monkeypatch.setattr(chunks_module, "UNRATED_LATE_S", 0.01)
    monkeypatch.setattr(chunks_module, "UNRATED_TURN_S", 0.05)
    for _ in range(3 * MAX_TURNS):
        swarm.add(honest(BLOB, silent=True))
    swarm.add(honest(BLOB))
    assert await fetch(swarm, store, ledger, silence_s=3600.0) == BLOB.data


async def test_a_few_more_begin_beside_those_that_all_bring_nothing(
    swarm: SeededSwarm, store: BlobStore, ledger: SourceLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulls, "_WATCH_S", 0.01)
    monkeypatch.setattr(chunks_module, "UNRATED_LATE_S", 0.01)
    for _ in range(MAX_TURNS):
        swarm.add(honest(BLOB, silent=True))
    swarm.add(honest(BLOB))
    assert await fetch(swarm, store, ledger, silence_s=3600.0) == BLOB.data
    assert swarm.most_at_once == MAX_TURNS + 1


async def test_on_a_line_that_is_slow_for_all_of_many_sources_nobody_is_sent_away_before_its_first_chunk(
    swarm: SeededSwarm, store: BlobStore, ledger: SourceLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulls, "_WATCH_S", 0.001)
    monkeypatch.setattr(pulls, "_REASK_S", 0.02)
    monkeypatch.setattr(chunks_module, "UNRATED_LATE_S", 0.001)  # a chunk takes far longer than this
    blob = made_blob(4)
    sources = [swarm.add(honest(blob, turns=8000)) for _ in range(2 * MAX_TURNS)]
    assert await fetch(swarm, store, ledger, blob) == blob.data
    assert {times for source in sources for times in source.asked.values()} == {1}  # nothing was begun anew


async def test_when_every_source_is_slow_the_download_goes_on(
    swarm: SeededSwarm, store: BlobStore, ledger: SourceLedger
) -> None:
    blob = made_blob(12)
    for _ in range(3):
        swarm.add(honest(blob, turns=3000))
    assert await fetch(swarm, store, ledger, blob) == blob.data


async def test_a_source_that_serves_others_now_is_asked_again_later(
    swarm: SeededSwarm, store: BlobStore, ledger: SourceLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulls, "_BUSY_WAIT_S", 0.0)
    good, busy = swarm.add(honest(BLOB)), iter([True] * 20)
    fetch_have = swarm.fetch_have

    async def have(peer: str, blob_id: str) -> bytes:
        if next(busy, False):
            raise BusyError(f"peer {peer} is busy")
        return await fetch_have(peer, blob_id)

    swarm.fetch_have = have  # type: ignore[method-assign]
    assert await fetch(swarm, store, ledger) == BLOB.data
    assert good.served


async def test_a_blob_in_chunks_of_a_byte_is_not_fetched_and_nobody_is_charged(
    swarm: SeededSwarm, store: BlobStore, ledger: SourceLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks_module, "LEAST_CHUNK_BYTES", 1001)
    seeder = swarm.add(honest(BLOB))
    with pytest.raises(ManifestError, match="40 chunks of 1000 bytes, 1001 are the least"):
        await fetch(swarm, store, ledger)
    assert not seeder.asked
    assert ledger.allows(seeder.peer)
    assert store.used_bytes() == 0
    small = made_blob(1)  # one chunk is as short as its blob
    swarm.add(honest(small))
    assert await fetch(swarm, store, ledger, small) == small.data


async def test_nobody_has_it(swarm: SeededSwarm, store: BlobStore, ledger: SourceLedger) -> None:
    for seed in (1, 2, 3):
        swarm.add(honest(made_blob(4, rng_seed=seed)))
    with pytest.raises(MissingBlobError, match=r"asked 3 peers, nobody reachable has blob [0-9a-f]{16}…"):
        await fetch(swarm, store, ledger)
    assert not store.ids()


async def test_a_seeder_that_says_it_has_what_it_never_sends_is_given_up(
    swarm: SeededSwarm, store: BlobStore, ledger: SourceLedger
) -> None:
    boaster = swarm.add(honest(BLOB, omits=frozenset({3, 4})))
    with pytest.raises(MissingBlobError, match="2 of 40 chunks"):
        await fetch(swarm, store, ledger)
    assert boaster.asked[3] <= sources_module._MAX_ERRORS + 1


async def test_a_bulletin_board_that_fails_for_a_while_does_not_end_a_download(
    swarm: SeededSwarm, store: BlobStore, ledger: SourceLedger
) -> None:
    seeder = swarm.add(honest(BLOB))
    failures = iter([True, True, False])

    async def sources() -> list[str]:
        if next(failures, False):
            raise UnreachableError("no DHT node answers")
        return [seeder.peer]

    path = await Fetcher(swarm, store, ledger).one(BLOB.ref, sources)
    assert path.read_bytes() == BLOB.data


@settings(max_examples=60)
@given(
    chunks=st.integers(1, 24),
    seeders=st.lists(
        st.tuples(
            st.frozensets(st.integers(0, 23)),  # has
            st.none() | st.integers(0, 12),  # leaves after so many chunks
            st.integers(0, 6),  # turns
            st.frozensets(st.integers(0, 23), max_size=1),  # lies about
            st.booleans(),  # silent
        ),
        max_size=5,
    ),
)
def test_whatever_sources_do_it_ends_in_the_right_bytes_or_a_missing_blob(
    chunks: int, seeders: list[tuple[Any, ...]]
) -> None:
    blob = made_blob(chunks)

    async def run(root: Path) -> None:
        store = BlobStore(root)
        swarm = SeededSwarm(FakeNetwork(), Identity.generate())
        reliable = frozenset[int]()
        for has, leaves_after, turns, wrong, silent in seeders:
            have = has & frozenset(range(chunks))
            swarm.add(Seeder(blob, have, wrong, silent=silent, leaves_after=leaves_after, turns=turns))
            reliable |= have if leaves_after is None and not wrong and not silent else frozenset()
        try:
            assert await fetch(swarm, store, SourceLedger(), blob, silence_s=0.01) == blob.data
        except MissingBlobError:
            assert len(reliable) < chunks
            here = store.have(blob.ref.id)
            for index in range(chunks if here else 0):
                if here[index >> 3] >> (index & 7) & 1:
                    assert store.read_chunk(blob.ref.id, index) == blob.chunk(index)

    with tempfile.TemporaryDirectory() as root:
        asyncio.run(run(Path(root)))


# this disk


async def test_a_process_killed_in_a_fetch_is_continued_by_the_next_which_asks_only_for_what_is_missing(
    swarm: SeededSwarm, tmp_path: Path, ledger: SourceLedger
) -> None:
    command = [sys.executable, "-m", "tests.node.killed_fetch", str(tmp_path / "blobs"), "40", "15"]
    child = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert child.stdout is not None
    said = json.loads(await child.stdout.readline())
    child.kill()
    await child.communicate()
    assert child.returncode == -signal.SIGKILL
    assert 15 <= len(said["here"]) < 40
    seeder = swarm.add(honest(BLOB))
    assert await fetch(swarm, BlobStore(tmp_path / "blobs"), ledger) == BLOB.data
    assert seeder.asked == dict.fromkeys(set(range(40)) - set(said["here"]), 1)
    assert seeder.manifests == 0


async def test_a_disk_that_fills_up_is_said_and_the_download_goes_on_from_there_later(
    swarm: SeededSwarm, store: BlobStore, ledger: SourceLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeder = swarm.add(honest(BLOB))
    pwrite, written = os.pwrite, 0

    def full(descriptor: int, data: Any, offset: int) -> int:
        nonlocal written
        written += 1
        if written > 10:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(DiskFullError, match="no space left"):
        await fetch(swarm, store, ledger)
    here = chunks_of(store.have(BLOB.ref.id), 40)
    assert len(here) == 10
    monkeypatch.setattr(os, "pwrite", pwrite)
    seeder.asked.clear()
    assert await fetch(swarm, store, ledger) == BLOB.data
    assert seeder.asked == dict.fromkeys(set(range(40)) - here, 1)


async def test_max_disk_is_kept_before_anything_is_asked_for(
    swarm: SeededSwarm, tmp_path: Path, ledger: SourceLedger
) -> None:
    seeder = swarm.add(honest(BLOB))
    with pytest.raises(DiskFullError, match="--max-disk"):
        await fetch(swarm, BlobStore(tmp_path / "small", max_bytes=BLOB.ref.size_bytes - 1), ledger)
    assert not seeder.asked
    assert ledger.allows(seeder.peer)


async def test_a_damaged_blob_is_healed_by_a_fetch_of_its_bad_chunks_alone(
    swarm: SeededSwarm, store: BlobStore, ledger: SourceLedger
) -> None:
    seeder = swarm.add(honest(BLOB))
    await fetch(swarm, store, ledger)
    with store.path(BLOB.ref.id).open("r+b") as file:
        file.seek(7 * BLOB.chunk_bytes)
        file.write(b"rot")
    assert store.verify(BLOB.ref.id) == [7]
    seeder.asked.clear()
    assert await fetch(swarm, store, ledger) == BLOB.data
    assert seeder.asked == {7: 1}


class OpenState:
    def rights(self, peer: str) -> frozenset[str]:
        return frozenset({"train", "generate", "store"})


async def test_a_download_in_progress_is_served_to_others(
    store: BlobStore, ledger: SourceLedger, tmp_path: Path
) -> None:
    partial = store.begin(BLOB.ref.id, BLOB.manifest.to_bytes(), BLOB.ref.size_bytes)
    for index in range(0, 40, 2):
        partial.write_chunk(index, BLOB.chunk(index))

    class Serving:
        state = OpenState()
        things = staticmethod(lambda blob_id: {"data"})
        serves = staticmethod(lambda blob_id: blob_id == BLOB.ref.id)
        records_under = staticmethod(lambda key: [])

    network, identity = FakeNetwork(), Identity.generate()
    host = Host(PeerSettings(data_dir=tmp_path), identity, store)
    network.join(identity, host)
    other = network.join(Identity.generate())
    there = BlobStore(tmp_path / "there")

    async def sources() -> list[str]:
        return [identity.peer_id]

    with pytest.raises(MissingBlobError, match="nobody reachable"):
        # a blob of no run of this host is nobody's business
        await Fetcher(other, there, ledger).one(BLOB.ref, sources)
    with pytest.raises(MissingBlobError):
        host.shown_to(other.peer_id, "blobs", "", BLOB.ref.id).read_chunk(BLOB.ref.id, 0)
    host.members["run"] = Serving()  # type: ignore[assignment]
    with pytest.raises(MissingBlobError, match="20 of 40 chunks"):
        await Fetcher(other, there, ledger).one(BLOB.ref, sources)
    assert there.have(BLOB.ref.id) == store.have(BLOB.ref.id) == b"\x55" * 5


async def test_a_cancelled_fetch_keeps_what_came(
    swarm: SeededSwarm, store: BlobStore, ledger: SourceLedger
) -> None:
    some = swarm.add(Seeder(BLOB, frozenset(range(10))))
    silent = swarm.add(honest(BLOB, silent=True))
    came = asyncio.Event()

    def progress(received_bytes: int) -> None:
        if received_bytes >= 10 * BLOB.chunk_bytes:
            came.set()

    task = asyncio.create_task(fetch(swarm, store, ledger, silence_s=3600.0, progress=progress))
    async with asyncio.timeout(30):
        await came.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert some.served.total() == 10
    silent.silent = False
    some.asked.clear()
    silent.asked.clear()
    assert await fetch(swarm, store, ledger) == BLOB.data
    assert set(some.asked) | set(silent.asked) == set(range(10, 40))


def test_the_manifests_used_here_are_real_ones() -> None:
    assert Manifest.from_bytes(BLOB.manifest.to_bytes(), BLOB.ref.id) == BLOB.manifest
    with pytest.raises(ManifestError):
        Manifest.from_bytes(resized(BLOB.manifest.to_bytes()), BLOB.ref.id)
    assert re.fullmatch("[0-9a-f]{64}", BLOB.ref.id)
