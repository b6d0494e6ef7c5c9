"""Packs the arrays of results as assets of a release, and fetches them again; assets.json names them.

A scale's arrays are one uncompressed tar (npz files are compressed) whose bytes depend on the arrays alone.
"""

from __future__ import annotations

import hashlib
import http.client
import tarfile
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Annotated, BinaryIO

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.ddm_vs_monolith.results import HERE
from paris_p2p.errors import ParisError, UsageError

MANIFEST = HERE / "assets.json"
TIMEOUT_S = 60.0
_READ_BYTES = 1 << 20

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]  # no folder, nothing hidden


class AssetError(ParisError):
    """Says that an asset cannot be had, or is not what the manifest says."""


class Content(BaseModel):
    """Says what a file holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: int = Field(ge=1)
    sha256: Sha256

    @classmethod
    def of(cls, file: BinaryIO) -> Content:
        return cls(bytes=file.seek(0, 2), sha256=_sha256(file))


class Asset(Content):
    """Describes one scale's tar and the files in it."""

    files: dict[FileName, Content]


class Assets(BaseModel):
    """Lists the assets that hold the arrays behind results/, and where a release has them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    scales: dict[str, Asset]

    @classmethod
    def read(cls, path: Path = MANIFEST) -> Assets:
        """Returns a manifest; UsageError where it cannot be read."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise UsageError(
                f"{path} is no manifest of assets ({error}); restore it from git, or make it with `pack`"
            ) from error

    def asset(self, scale: str) -> Asset:
        """Returns one scale's asset; UsageError for a scale that has none."""
        if scale not in self.scales:
            raise UsageError(f"no arrays of {scale!r} are published, only of {', '.join(self.scales)}")
        return self.scales[scale]


def asset_name(scale: str) -> str:
    return f"ddm-vs-monolith-{scale}.tar"


def pack(scales: list[str], results: Path, out: Path, url: str) -> Assets:
    """Writes one tar a scale into `out` and returns their manifest; UsageError for one without arrays."""
    out.mkdir(parents=True, exist_ok=True)
    packed = {}
    for scale in scales:
        paths = sorted((results / scale).glob("*.npz"))
        if not paths:
            raise UsageError(f"{results / scale} has no arrays (*.npz); run or fetch {scale} first")
        path = out / asset_name(scale)
        _write_tar(path, paths)
        with path.open("rb") as file:
            whole = Content.of(file)
        packed[scale] = Asset(**whole.model_dump(), files={path.name: _content(path) for path in paths})
    return Assets(url=url, scales=packed)


def _write_tar(path: Path, members: list[Path]) -> None:
    """Writes a tar without owner, time and mode, so that the same arrays give the same bytes everywhere."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for member in members:
            entry = tarfile.TarInfo(member.name)
            entry.size = member.stat().st_size
            with member.open("rb") as file:
                tar.addfile(entry, file)


def fetch(scale: str, assets: Assets, results: Path, url: str | None = None) -> list[Path]:
    """Downloads one scale's arrays and returns those that were not there before.

    Each file appears whole or not at all. Raises AssetError where the asset cannot be had or differs from the
    manifest, UsageError where a file of that name holds something else.
    """
    asset, folder = assets.asset(scale), results / scale
    missing = {name: content for name, content in asset.files.items() if not _there(folder / name, content)}
    if not missing:
        return []
    address = f"{(url or assets.url).rstrip('/')}/{asset_name(scale)}"
    with tempfile.TemporaryFile() as file:
        _download(address, asset, file)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as unpacked:
            _unpack(file, missing, Path(unpacked), address)
            for name in missing:
                (Path(unpacked) / name).replace(folder / name)
    return [folder / name for name in missing]


def _there(path: Path, content: Content) -> bool:
    if not path.exists():
        return False
    if _content(path) != content:
        raise UsageError(
            f"{path} is not the published file; delete it, or fetch into another folder with --results"
        )
    return True


def _download(address: str, asset: Asset, file: BinaryIO) -> None:
    """Writes the asset into a file; AssetError unless it is the manifest's, byte for byte."""
    if not address.startswith(("https://", "http://")):
        raise UsageError(f"{address} is neither an https:// nor an http:// address; name one with --url")
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT_S) as answer:
            while block := answer.read(_READ_BYTES):
                file.write(block)
                if file.tell() > asset.bytes:
                    break
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        raise AssetError(
            f"{address} cannot be downloaded ({error}); check the network, or name another address with "
            "--url. The arrays can also be made again: `python -m bench.ddm_vs_monolith run`"
        ) from error
    got = file.tell()
    if got != asset.bytes:
        relation = "more than" if got > asset.bytes else f"{got:,} instead of"
        raise AssetError(
            f"{address} has {relation} {asset.bytes:,} bytes; fetch again, or name another --url"
        )
    if (found := _sha256(file)) != asset.sha256:
        raise AssetError(
            f"{address} is damaged or another file: its SHA-256 is {found}, not {asset.sha256} as "
            "assets.json says; fetch again, or name another --url"
        )


def _unpack(file: BinaryIO, wanted: dict[str, Content], folder: Path, address: str) -> None:
    """Takes out of the tar the files that the manifest names, by those names, and no others."""
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for name in wanted:
                member = tar.extractfile(name)
                if member is None:
                    raise AssetError(f"{name} in {address} is no regular file; the manifest is wrong")
                (folder / name).write_bytes(member.read())
    except (tarfile.TarError, KeyError) as error:
        raise AssetError(f"{address} does not hold what assets.json says ({error})") from error
    for name, content in wanted.items():
        if _content(folder / name) != content:
            raise AssetError(f"{name} in {address} is not the file that assets.json describes")


def _content(path: Path) -> Content:
    with path.open("rb") as file:
        return Content.of(file)


def _sha256(file: BinaryIO) -> str:
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()
