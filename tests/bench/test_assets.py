"""Arrays that are kept outside git are packed the same everywhere and fetched whole or not at all."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bench.ddm_vs_monolith.assets import MANIFEST, AssetError, Assets, asset_name, fetch, pack
from bench.ddm_vs_monolith.results import HERE, Results
from paris_p2p.errors import UsageError
from tests.bench.made_results import SCALE, made_results

ROOT = HERE.parents[1]


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Returns a folder of all scales' results, with one scale in it."""
    made_results(tmp_path / "results" / SCALE.name)
    return tmp_path / "results"


@pytest.fixture
def assets(made: Path, tmp_path: Path) -> Iterator[Assets]:
    """Serves the packed assets over HTTP for the length of a test."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tmp_path / "assets")))
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield pack([SCALE.name], made, tmp_path / "assets", f"http://127.0.0.1:{server.server_port}/")
        server.shutdown()
        thread.join()


def _packed(tmp_path: Path) -> Path:
    return tmp_path / "assets" / asset_name(SCALE.name)


def test_arrays_are_fetched_as_they_were_packed_and_only_once(assets, made, tmp_path):
    fetched = fetch(SCALE.name, assets, tmp_path / "here")
    assert [path.name for path in fetched] == [path.name for path in sorted(made.glob("*/*.npz"))]
    for path in fetched:
        assert path.read_bytes() == (made / SCALE.name / path.name).read_bytes()
    _packed(tmp_path).unlink()  # nothing is asked again
    assert fetch(SCALE.name, assets, tmp_path / "here") == []


def test_the_same_arrays_pack_to_the_same_bytes_whatever_their_times(assets, made, tmp_path):
    for path in made.glob("*/*.npz"):
        path.touch()
        path.chmod(0o600)
    again = pack([SCALE.name], made, tmp_path / "again", assets.url)
    assert again == assets
    assert (tmp_path / "again" / asset_name(SCALE.name)).read_bytes() == _packed(tmp_path).read_bytes()


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_flip, "damaged or another file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-512]), "instead of"),
        (lambda path: path.write_bytes(path.read_bytes() + b"\0"), "more than"),
        (lambda path: path.unlink(), "404"),
    ],
    ids=["damaged", "short", "long", "absent"],
)
def test_what_is_not_the_published_asset_is_refused_and_leaves_nothing(assets, tmp_path, spoil, words):
    spoil(_packed(tmp_path))
    with pytest.raises(AssetError, match=words):
        fetch(SCALE.name, assets, tmp_path / "here")
    assert not (tmp_path / "here").exists()


def test_a_server_that_is_not_there_is_named_with_what_to_do(assets, tmp_path):
    with pytest.raises(AssetError, match=r"127\.0\.0\.1:9/.*cannot be downloaded.*--url"):
        fetch(SCALE.name, assets, tmp_path / "here", "http://127.0.0.1:9")


@pytest.mark.parametrize("url", ["file:///etc", "", "ftp://127.0.0.1"])
def test_only_web_addresses_are_opened(assets, tmp_path, url):
    named = assets.model_copy(update={"url": url})
    with pytest.raises(UsageError, match="neither an https:// nor an http:// address"):
        fetch(SCALE.name, named, tmp_path / "here")


def test_an_asset_whose_members_are_not_the_manifests_is_refused_and_leaves_nothing(assets, tmp_path):
    asset = assets.asset(SCALE.name)
    name, content = next(iter(asset.files.items()))
    for files, words in (
        ({name: content.model_copy(update={"sha256": "0" * 64})}, "not the file"),
        ({"other.npz": content}, "does not hold"),
    ):
        named = assets.model_copy(update={"scales": {SCALE.name: asset.model_copy(update={"files": files})}})
        with pytest.raises(AssetError, match=words):
            fetch(SCALE.name, named, tmp_path / "here")
        assert list((tmp_path / "here" / SCALE.name).iterdir()) == []


def test_results_of_ones_own_are_not_overwritten(assets, made):
    own = next(made.glob("*/test.npz"))
    own.write_bytes(b"own")
    with pytest.raises(UsageError, match="not the published file"):
        fetch(SCALE.name, assets, made)
    assert own.read_bytes() == b"own"


def test_a_scale_without_arrays_is_not_packed_and_an_unknown_one_not_fetched(assets, tmp_path):
    with pytest.raises(UsageError, match="no arrays"):
        pack(["core"], tmp_path / "empty", tmp_path / "out", "https://example.org")
    with pytest.raises(UsageError, match=f"'gpu'.*only of {SCALE.name}"):
        fetch("gpu", assets, tmp_path / "here")


@pytest.mark.parametrize("name", ["../outside.npz", "/etc/passwd", ".hidden", "a/b"])
def test_a_manifest_cannot_name_a_file_elsewhere(assets, tmp_path, name):
    said = assets.model_dump()
    files = said["scales"][SCALE.name]["files"]
    files[name] = files.pop("test.npz")
    (tmp_path / "assets.json").write_text(json.dumps(said))
    with pytest.raises(UsageError, match="no manifest of assets"):
        Assets.read(tmp_path / "assets.json")


def test_the_manifest_in_the_repository_names_an_array_for_every_sampling_whose_result_is_there():
    assets = Assets.read(MANIFEST)
    assert set(assets.scales) == {path.parent.name for path in (HERE / "results").glob("*/test.json")}
    for scale, asset in assets.scales.items():
        samplings = {path.stem + ".npz" for path in (HERE / "results" / scale).glob("sample.*.json")}
        assert samplings | {"test.npz"} <= set(asset.files)


def test_arrays_that_are_not_here_are_missed_with_the_command_that_brings_them(tmp_path):
    with pytest.raises(UsageError, match="fetch core"):
        Results(tmp_path / "core").arrays("test")


def test_the_commands_pack_and_fetch(assets, made, tmp_path):
    command = [sys.executable, "-m", "bench.ddm_vs_monolith"]
    manifest = ["--manifest", str(tmp_path / "assets.json")]
    out = ["--out", str(tmp_path / "assets"), "--results", str(made), "--url", assets.url]
    subprocess.run([*command, "pack", *out, *manifest], cwd=ROOT, check=True)
    assert Assets.read(tmp_path / "assets.json") == assets
    here = ["--results", str(tmp_path / "here")]
    said = subprocess.run([*command, "fetch", *here, *manifest], cwd=ROOT, check=True, capture_output=True)
    assert said.stdout.decode() == f"{SCALE.name}: {len(list(made.glob('*/*.npz')))} files fetched\n"
    _packed(tmp_path).unlink()
    away = subprocess.run(
        [*command, "fetch", "--results", str(tmp_path / "away"), *manifest], cwd=ROOT, capture_output=True
    )
    assert away.returncode == 1
    assert "404" in away.stderr.decode()
