"""The folder of a run's model, as a generator lays it out."""

from __future__ import annotations

from pathlib import Path

from paris_p2p.node.plain_files import lay_out
from paris_p2p.spec import Pinned
from paris_p2p.store.blobs import BlobStore


def test_a_models_folder_holds_its_files_and_nothing_that_lay_there_before(tmp_path: Path) -> None:
    (tmp_path / "made.json").write_bytes(b"{}")
    store = BlobStore(tmp_path / "blobs")
    ref = store.add_file(tmp_path / "made.json")
    folder = tmp_path / "text"
    (folder / "sub").mkdir(parents=True)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "part.bin"}}')
    (folder / "config.json").write_text("an older one")
    pinned = Pinned(name="transformers:x", files={"config.json": ref, "tokenizer.json": ref})
    for _ in range(2):  # a second time keeps what is right
        lay_out(store, pinned, folder)
        assert sorted(path.name for path in folder.iterdir()) == ["config.json", "tokenizer.json"]
        assert (folder / "config.json").read_bytes() == b"{}"
