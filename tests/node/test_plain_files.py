"""A generator's files: of a sealed run they are opened copies, which live as long as the command."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from bench.bare_run import bare_run
from paris_p2p.cli.console import Ended
from paris_p2p.errors import DiskFullError, MissingBlobError, MissingKeyError, SealError
from paris_p2p.fetched_run import FetchedRun
from paris_p2p.identity import Identity
from paris_p2p.invite import Invite
from paris_p2p.keyring import Keyring, RunKey, save_keyring
from paris_p2p.node.generator import Fetched, FetchedSlot, fetch_run
from paris_p2p.node.host import save_spec
from paris_p2p.node.joining import GENERATOR_DIR
from paris_p2p.node.plain_files import OPENED, opened_folder, sweep_opened
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.records import BlobRef
from paris_p2p.spec import LatentShape, Pinned, TextShape, sign_run
from paris_p2p.store.blobs import BlobStore
from paris_p2p.store.sealed_blobs import add_sealed

LATENT = LatentShape(channels=4, frames=4, height=4, width=4)
TEXT = TextShape(tokens=8, dim=8, pooled_dim=8)
WEIGHTS, CODEC = b"weights of an expert" * 1000, b"the codec" * 500


class FetchedWorld:
    """A generator's data directory as an online fetch left it."""

    def __init__(self, folder: Path, *, private: bool = True):
        self.data_dir, self.home = folder, folder / GENERATOR_DIR
        self.key, self.store = RunKey.generate(), BlobStore(folder / GENERATOR_DIR / "blobs")
        self.private = private
        codec, weights = self.add(CODEC), self.add(WEIGHTS)
        sealed = {"private": True, "members_only": True, "key_hash": self.key.hash} if private else {}
        pinned = Pinned(name="pca", files={"pca.safetensors": codec})
        self.run = sign_run(Identity.generate(), bare_run(LATENT, TEXT, codec=pinned, **sealed))
        save_spec(self.home, self.run)
        self.run_folder = self.home / "runs" / self.run.id
        save_keyring(self.run_folder, Keyring((self.key,)))
        slots = {slot: FetchedSlot(card="0" * 64, weights=weights) for slot in self.run.record.slots}
        (self.run_folder / "fetched.json").write_text(Fetched(slots=slots).model_dump_json())

    def add(self, data: bytes) -> BlobRef:
        path = self.data_dir / "file"
        path.write_bytes(data)
        if self.private:
            return add_sealed(self.store, path, self.key, move=True)
        return self.store.add_file(path, move=True)

    def fetch(self, max_disk_bytes: int = 0) -> FetchedRun:
        settings = PeerSettings(data_dir=self.data_dir, max_disk_bytes=max_disk_bytes)
        return fetch_run(settings, Invite(run=self.run.id, peers=()), offline=True)

    def plain(self) -> list[Path]:
        """Returns every file here that holds plain weights or the plain codec."""
        files = [path for path in self.data_dir.rglob("*") if path.is_file()]
        return [path for path in files if any(data[:20] in path.read_bytes() for data in (WEIGHTS, CODEC))]


def test_a_sealed_runs_files_are_plain_while_they_are_used_and_gone_afterwards(tmp_path: Path) -> None:
    world = FetchedWorld(tmp_path)
    with world.fetch() as run:
        assert {path.read_bytes() for path in run.weights.values()} == {WEIGHTS}
        assert run.codec_folder is not None
        assert (run.codec_folder / "pca.safetensors").read_bytes() == CODEC
        folders = {run.codec_folder, *(path.parent for path in run.weights.values())}
        assert {stat.S_IMODE(folder.stat().st_mode) for folder in folders} == {0o700}
        assert {stat.S_IMODE(path.stat().st_mode) for path in run.weights.values()} == {0o600}
    assert world.plain() == []
    assert [path.name for path in (world.home / OPENED).iterdir()] == ["lock"]


def test_an_open_runs_files_are_the_stores_own(tmp_path: Path) -> None:
    world = FetchedWorld(tmp_path, private=False)
    with world.fetch() as run:
        assert all(path.samefile(world.store.path(path.stem)) for path in run.weights.values())
    assert run.codec_folder is not None
    assert (run.codec_folder / "pca.safetensors").read_bytes() == CODEC
    assert not (world.home / OPENED).exists()


@pytest.mark.parametrize("error", [ValueError(), KeyboardInterrupt(), Ended(143)], ids=repr)
def test_a_command_that_fails_or_is_ended_by_a_signal_leaves_no_copy(
    tmp_path: Path, error: BaseException
) -> None:
    world = FetchedWorld(tmp_path)

    def generate() -> None:
        with world.fetch():
            assert world.plain()
            raise error

    with pytest.raises(type(error)):
        generate()
    assert world.plain() == []


def test_copies_of_a_killed_command_go_with_the_next_and_those_of_a_living_one_stay(tmp_path: Path) -> None:
    world = FetchedWorld(tmp_path)
    dead = world.home / OPENED / "1-dead"
    dead.mkdir(parents=True)
    (dead / "expert-0").write_bytes(WEIGHTS)
    (dead.parent / "1-dead.lock").touch()
    with world.fetch() as first:
        assert not dead.exists()
        with world.fetch() as second:
            assert set(first.weights.values()).isdisjoint(second.weights.values())
            assert all(path.exists() for path in first.weights.values())
        assert all(path.exists() for path in first.weights.values())
    assert world.plain() == []


def test_a_start_of_the_machines_peer_deletes_what_a_killed_command_left_and_no_more(tmp_path: Path) -> None:
    world = FetchedWorld(tmp_path)
    dead = world.home / OPENED / "1-dead"
    with world.fetch() as living:
        dead.mkdir()
        (dead / "expert-0").write_bytes(WEIGHTS)
        sweep_opened(tmp_path)
        assert not dead.exists()
        assert all(path.exists() for path in living.weights.values())
    assert world.plain() == []


def test_a_run_whose_key_is_not_here_is_not_opened(tmp_path: Path) -> None:
    world = FetchedWorld(tmp_path)
    save_keyring(world.run_folder, Keyring((RunKey.generate(),)))
    with pytest.raises(
        MissingKeyError, match=f"sealed under key {world.key.hint.hex()}, which is not here yet"
    ):
        world.fetch()
    assert world.plain() == []


def test_a_plain_blob_in_a_private_run_is_refused(tmp_path: Path) -> None:
    world = FetchedWorld(tmp_path, private=True)
    world.private = False
    weights = world.add(WEIGHTS)
    slots = {slot: FetchedSlot(card="0" * 64, weights=weights) for slot in world.run.record.slots}
    (world.run_folder / "fetched.json").write_text(Fetched(slots=slots).model_dump_json())
    with pytest.raises(SealError, match="is not sealed, as everything of a private run must be"):
        world.fetch()


def test_a_blob_that_went_away_is_named_and_nothing_is_left_open(tmp_path: Path) -> None:
    world = FetchedWorld(tmp_path)
    (codec,) = world.run.record.codec.files.values()
    world.store.delete(codec.id)
    with pytest.raises(MissingBlobError, match="though it was fetched once"):
        world.fetch()
    assert world.plain() == []


def test_copies_count_into_the_cap(tmp_path: Path) -> None:
    world = FetchedWorld(tmp_path)
    with pytest.raises(DiskFullError, match="--max-disk"):
        world.fetch(world.store.used_bytes() + len(WEIGHTS))
    assert world.plain() == []
    with world.fetch(world.store.used_bytes() + 2 * len(WEIGHTS) + len(CODEC)):
        pass


def test_two_commands_that_begin_at_once_have_folders_of_their_own(tmp_path: Path) -> None:
    with opened_folder(tmp_path) as first, opened_folder(tmp_path) as second:
        assert first != second
        assert first.is_dir()
