"""An exported folder read back is as good as the fetch behind it, and refused once it was tampered with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from paris_p2p.cli.peer import app
from paris_p2p.errors import ParisError, UsageError
from paris_p2p.generation.export import export
from paris_p2p.generation.exported import MAX_CARDS_BYTES, open_export, weights_path
from paris_p2p.generation.generate import generate
from paris_p2p.identity import Identity
from paris_p2p.run_file import RUN_FILE
from paris_p2p.spec import sign_run
from tests.made.made_run import MadeRun


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeRun:
    return MadeRun(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def exported(made: MadeRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "model"
    export(made.fetched(), path)
    return path


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    """Returns a copy, which a test may spoil."""
    return shutil.copytree(exported, tmp_path / "model")


def test_from_an_export_the_same_clips_are_made_as_from_the_fetch(
    made: MadeRun, folder: Path, tmp_path: Path
) -> None:
    fetched, read = made.fetched(), open_export(folder)
    assert (read.signed, read.cards) == (fetched.signed, fetched.cards)
    results = [generate(run, made.job(tmp_path / f"{run is read}.npy")) for run in (fetched, read)]
    assert results[0].describe() == results[1].describe().replace("True.npy", "False.npy")
    assert (tmp_path / "False.npy").read_bytes() == (tmp_path / "True.npy").read_bytes()


def test_the_command_line_takes_an_exports_folder_where_it_takes_an_invite(
    made: MadeRun, folder: Path, tmp_path: Path
) -> None:
    generate(made.fetched(), made.job(tmp_path / "fetched.npy", prompts=("a red ball",)))
    out = tmp_path / "exported.npy"
    how = ("--steps", "3", "--device", "cpu", "--threads", "1", "--out", str(out))
    result = CliRunner().invoke(app, ["generate", "a red ball", str(folder), *how], catch_exceptions=False)
    assert f"wrote {out}" in result.stdout
    assert out.read_bytes() == (tmp_path / "fetched.npy").read_bytes()


def test_weights_lie_in_an_export_as_they_were_attested(made: MadeRun, folder: Path) -> None:
    for slot, path in made.weights.items():
        assert weights_path(folder, slot).read_bytes() == path.read_bytes()


def test_a_partial_export_has_the_slots_it_was_given(made: MadeRun, tmp_path: Path) -> None:
    export(made.fetched(weights={"expert-1": made.weights["expert-1"]}), tmp_path / "model")
    read = open_export(tmp_path / "model")
    assert (read.experts, set(read.weights), set(read.cards)) == ([1], {"expert-1"}, {"expert-1"})


def test_an_exported_run_can_be_exported_again(folder: Path, tmp_path: Path) -> None:
    export(open_export(folder), tmp_path / "again")
    files = [sorted(path.relative_to(at) for path in at.rglob("*")) for at in (folder, tmp_path / "again")]
    assert files[0] == files[1]


def without_signature(folder: Path, made: MadeRun) -> None:
    (folder / RUN_FILE).unlink()


def a_cut_spec(folder: Path, made: MadeRun) -> None:
    (folder / RUN_FILE).write_bytes(made.signed.data[:-9])


def anothers_spec(folder: Path, made: MadeRun) -> None:
    (folder / RUN_FILE).write_bytes(sign_run(Identity.generate(), made.spec).data)


def another_experts_weights(folder: Path, made: MadeRun) -> None:
    shutil.copyfile(weights_path(folder, "expert-1"), weights_path(folder, "expert-0"))


def weights_saved_by_diffusers(folder: Path, made: MadeRun) -> None:
    path = weights_path(folder, "router")
    save_file(load_file(path), path, {"format": "pt"})


def a_header_that_nests(folder: Path, made: MadeRun) -> None:
    header = b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}"
    weights_path(folder, "expert-0").write_bytes(len(header).to_bytes(8, "little") + header)


def a_changed_codec(folder: Path, made: MadeRun) -> None:
    path = next((folder / "codec").glob("*.safetensors"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def a_longer_codec(folder: Path, made: MadeRun) -> None:
    with next((folder / "codec").glob("*.safetensors")).open("ab") as file:
        file.write(b"more")


def one_more_file(folder: Path, made: MadeRun) -> None:
    (folder / "codec" / "extra.json").write_text("{}")


def cards_that_are_none(folder: Path, made: MadeRun) -> None:
    (folder / "cards.json").write_text(json.dumps({"router": "<script>"}))


def too_many_cards(folder: Path, made: MadeRun) -> None:
    (folder / "cards.json").write_text(json.dumps({"router": "0" * MAX_CARDS_BYTES}))


TAMPERED = {
    without_signature: "an older version exported it, or diffusers saved it anew; export the run again",
    a_cut_spec: "run.spec is damaged: 9 bytes are missing",
    anothers_spec: "holds expert-0 of run .* where expert-0 of run .* should lie",
    another_experts_weights: "holds expert-1 of run",
    weights_saved_by_diffusers: "does not say whose weights it holds",
    a_header_that_nests: "header nests 5001 deep",
    a_changed_codec: "does not hash to",
    a_longer_codec: "is not the file of",
    one_more_file: r"extra\.json is no file of the run",
    cards_that_are_none: "does not name cards by slot",
    too_many_cards: f"has more than the {MAX_CARDS_BYTES} bytes",
}


@pytest.mark.parametrize("tamper", TAMPERED, ids=lambda tamper: tamper.__name__)
def test_a_folder_that_was_tampered_with_is_refused_and_what_is_wrong_is_said(
    made: MadeRun, folder: Path, tamper: Callable[[Path, MadeRun], None]
) -> None:
    tamper(folder, made)
    with pytest.raises(ParisError, match=TAMPERED[tamper]):
        open_export(folder)


def test_a_folder_without_a_model_says_how_to_write_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="paris-run export INVITE --out"):
        open_export(tmp_path)
