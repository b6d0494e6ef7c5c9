"""What an owner creates is sealed where the run asks for it, and opens with the keys in that folder."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from pydantic import ValidationError

from paris_p2p.data.prepared import Prepared
from paris_p2p.data_id import data_id_of_run
from paris_p2p.keyring import load_keyring
from paris_p2p.preparation.folder_id import data_id_of_folder
from paris_p2p.spec import RunSpec
from paris_p2p.store.blobs import BlobStore
from paris_p2p.store.sealing import BlobKey, hint_of, open_blob
from tests.made.made_prepared import make_run
from tests.preparation.test_create import OPTIONS


def opened(path: Path, key: BlobKey) -> bytes:
    out = io.BytesIO()
    open_blob(path, key, out)
    return out.getvalue()


@pytest.mark.parametrize("private", [False, True], ids=["open", "private"])
def test_gate_clips_are_sealed_in_every_new_run_and_all_else_in_a_private_one(
    tmp_path: Path, private: bool
) -> None:
    folder = tmp_path / "run"
    run = make_run(folder, seal_gate=True, private=private)
    spec, store = run.record, BlobStore(folder / "node" / "blobs")
    ring = load_keyring(folder / "node" / "runs" / run.id)
    assert ring.gate is not None
    assert (spec.gate.key_hash, spec.oldest_reader) == (ring.gate.hash, 4)
    gate = [store.path(shard.blob.id) for shard in spec.gate_shards]
    plain = [folder / shard.path for shard in Prepared.load(folder).shards_for("gate")]
    assert [opened(path, ring.gate) for path in gate] == [path.read_bytes() for path in plain]
    others = {ref.id for ref in spec.data_blobs} - {shard.blob.id for shard in spec.gate_shards}
    hints = {hint_of(store.path(blob_id)) for blob_id in others}
    assert hints == ({ring.current.hint} if private else {None})
    assert spec.key_hash == (ring.current.hash if private else "")
    keys = list(folder.rglob("keys"))
    assert len(keys) == 1 + private  # a private run's lie beside the owner's key, too
    assert {path.stat().st_mode & 0o777 for path in keys} == {0o600}


def test_nothing_plain_lies_in_a_private_runs_store(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    make_run(folder, private=True)
    ours = (folder / "shards", folder / "codec", folder / "text")
    plain = [path.read_bytes() for place in ours for path in place.rglob("*") if path.is_file()]
    stored = b"".join(path.read_bytes() for path in (folder / "node").rglob("*") if path.is_file())
    assert all(data[at : at + 32] not in stored for data in plain for at in range(0, len(data) - 32, 512))


def test_the_same_clips_have_one_name_sealed_or_not(tmp_path: Path) -> None:
    """By it, a model is measured on clips that were held out from it."""
    runs = [
        make_run(tmp_path / name, **how)
        for name, how in (("plain", {}), ("gate", {"seal_gate": True}), ("private", {"private": True}))
    ]
    assert len({data_id_of_run(run.record) for run in runs}) == 1
    folder = tmp_path / "private"
    assert data_id_of_run(runs[2].record) == data_id_of_folder(folder, Prepared.load(folder))


def test_a_run_that_seals_nothing_says_what_it_always_said(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    new = set(RunSpec.model_fields) & {"members_only", "key_hash", "data_id", "dropped_experts"}
    assert len(new) == 4
    assert all(name.encode() not in run.payload for name in new)
    assert run.record.oldest_reader == 1
    assert not list((tmp_path / "run").rglob("keys"))


def test_a_private_run_without_members_or_with_an_open_gate_cannot_be_asked_for() -> None:
    for how in ({"private": True}, {"private": True, "members_only": True, "seal_gate": False}):
        with pytest.raises(
            ValidationError, match="a private run is for members only, and its gate is sealed"
        ):
            type(OPTIONS).model_validate(OPTIONS.model_dump() | how)
