"""The folder of an exported model: what it may name, fetching it from a hub, and writing it anew.

A folder may come from anybody. Which classes its components have is not for it to choose, and nothing but
safetensors, JSON and the tokenizer's own files is read of it.
"""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from diffusers import DiffusionPipeline

from paris_p2p.bounded_json import read_json
from paris_p2p.disk import named_path
from paris_p2p.errors import ReadOnlyError, UsageError
from paris_p2p.generation.frozen import CODEC, FEATURES, TEXT
from paris_p2p.model.experts import ExpertSet
from paris_p2p.model.router import Router
from paris_p2p.model.saved import check_indices
from paris_p2p.model_folder import check_numbers
from paris_p2p.weights import MAX_CONFIG_BYTES, READABLE_SUFFIXES

CARD, CARDS = "README.md", "cards.json"
# beside the components, what a model's folder holds; it is copied when the model is saved elsewhere
KEPT = (CODEC, TEXT, FEATURES, CARD, CARDS)
SCHEDULER_CLASSES = (
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "UniPCMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DEISMultistepScheduler",
    "SASolverScheduler",
)
COMPONENTS = {
    "experts": [("paris_p2p.model.experts", "ExpertSet")],
    "router": [("paris_p2p.model.router", "Router")],
    "scheduler": [("diffusers", name) for name in SCHEDULER_CLASSES],
}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# a folder is written part by part, and not read meanwhile by another thread
_changing = threading.Lock()


class FolderPipeline(DiffusionPipeline):
    """A pipeline with a folder that holds more than its components: codec, text encoder, model card."""

    folder: Path | None = None
    _complete = False

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> Self:
        """Loads a folder that `paris-run export` or `save_pretrained` wrote, or a hub's model by its id;
        UsageError when there is none, or it names classes or files of weights that are not ours.

        Of diffusers' options cache_dir, force_download, local_files_only, revision and token are for the hub;
        torch_dtype is the experts'; components may be given by name.
        """
        names = ("cache_dir", "force_download", "local_files_only", "revision", "token")
        hub = {name: options.pop(name) for name in names if name in options}
        folder = find_folder(pretrained_model_name_or_path, **hub)
        with _changing:
            check_folder(folder)
            dtype, variant = _dtype(options), options.pop("variant", None)
            # loaded here, because diffusers looks for a variant's files in the components' folders alone
            kinds: dict[str, type[ExpertSet | Router]] = {"experts": ExpertSet, "router": Router}
            for name in kinds:
                if name not in options and (folder / name).is_dir():
                    options[name] = kinds[name].from_pretrained(folder / name, variant=variant, dtype=dtype)
            options |= {"local_files_only": True, "use_safetensors": True, "low_cpu_mem_usage": False}
            pipeline: Self = super().from_pretrained(str(folder), **options)
        pipeline.folder = folder
        return pipeline

    @classmethod
    def extract_init_dict(cls, config_dict: dict[str, Any], **options: Any) -> Any:
        """Sorts a saved configuration as diffusers does before it loads the components that are named there;
        UsageError when their classes are not ours. DiffusionPipeline.from_pretrained passes here too.
        """
        check_components(config_dict, "the model's index")
        return super().extract_init_dict(config_dict, **options)

    def save_pretrained(
        self,
        save_directory: str | Path,
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
        push_to_hub: bool = False,
        **options: Any,
    ) -> None:
        """Writes everything, with the codec and the text encoder where they are files, and the model card;
        also into the folder that the pipeline was loaded from. UsageError for anything but safetensors.
        """
        if not safe_serialization:
            raise UsageError("models are saved as safetensors, not as pickles; leave safe_serialization out")
        folder, write = Path(save_directory).absolute(), super().save_pretrained
        sizes = {"variant": variant, "max_shard_size": max_shard_size}
        write_folder(folder, lambda to: write(to, **sizes), self.complete_folder())
        if push_to_hub:
            self.push_to_hub(options.pop("repo_id", folder.name), variant=variant, **options)

    def push_to_hub(
        self,
        repo_id: str,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        create_pr: bool = False,
        safe_serialization: bool = True,
        variant: str | None = None,
        subfolder: str | None = None,
    ) -> Any:
        """Uploads what `save_pretrained` writes, with the model card that `paris-run export` wrote."""
        from huggingface_hub import create_repo

        repository = create_repo(repo_id, private=private, token=token, exist_ok=True).repo_id
        with TemporaryDirectory() as name:
            folder = Path(name) / "model"
            self.save_pretrained(folder, safe_serialization, variant)
            card = folder / CARD
            if card.is_file():
                words = card.read_text(encoding="utf-8")
                card.write_text(words.replace('("this folder")', f'("{repository}")'), encoding="utf-8")
            return self._upload_folder(str(folder), repository, token, commit_message, create_pr, subfolder)

    def to_json_string(self) -> str:
        """Returns the configuration as it is saved: without the path on this machine that it came from."""
        config = json.loads(super().to_json_string())
        config.pop("_name_or_path", None)
        return json.dumps(config, indent=2, sort_keys=True) + "\n"

    def complete_folder(self) -> Path | None:
        """Returns the pipeline's folder, if it has one, with what diffusers' download leaves out of it."""
        repository = str(self.config.get("_name_or_path") or "")
        cached = self.folder is not None and self.folder.parent.name == "snapshots"
        if self.folder is not None and cached and not self._complete and _HUB_ID.fullmatch(repository):
            fetch(repository, revision=self.folder.name, cache_dir=self.folder.parents[2])
        self._complete = True
        return self.folder

    def kept_folder(self, name: str) -> Path | None:
        """Returns the folder of codec, text encoder or picture network, or None where it is known by name."""
        folder = self.complete_folder()
        return folder / name if folder is not None and (folder / name).is_dir() else None


def check_folder(folder: Path) -> None:
    """Raises UsageError unless the folder holds an exported model, its index names known classes alone, and
    every index of weights in it safetensors files.
    """
    if not (folder / "model_index.json").is_file():
        raise UsageError(
            f"{folder} holds no exported run; write one with `paris-run export INVITE --out {folder}`"
        )
    index = read_json(folder / "model_index.json", MAX_CONFIG_BYTES)
    if not isinstance(index, dict):
        raise UsageError(f"{folder / 'model_index.json'} is not an object; take the model's own files anew")
    check_components(index, folder)
    check_indices(folder)
    scheduler = folder / "scheduler" / "scheduler_config.json"
    if scheduler.is_file():
        check_numbers(read_json(scheduler, MAX_CONFIG_BYTES), scheduler)


def check_components(index: Any, where: object) -> None:
    """Raises UsageError when a model's index names a class for a component that is none of ours."""
    for name, value in index.items() if isinstance(index, dict) else ():
        named = isinstance(value, list | tuple) and len(value) == 2 and isinstance(value[0], str)
        if named and not name.startswith("_") and tuple(value) not in COMPONENTS.get(name, ()):
            words = f"{str(value[0])[:60]}.{str(value[1])[:60]} as {name[:60]}"
            raise UsageError(f"{where} names the class {words}; it is no exported run, do not trust it")


def find_folder(reference: str | Path, **options: Any) -> Path:
    """Returns the folder with that name, or the hub's model with that id, fetched; an absolute path, so that
    what is loaded later is found from elsewhere too. UsageError.
    """
    folder = named_path(reference)
    if folder.is_dir() or not _HUB_ID.fullmatch(str(reference)):
        return folder.absolute()
    return fetch(str(reference), **options)


def fetch(repository: str, **options: Any) -> Path:
    """Returns the folder of a hub's model, fetched but for what was fetched before; UsageError."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    wanted = [*(f"*{suffix}" for suffix in READABLE_SUFFIXES), CARD]
    try:
        return Path(snapshot_download(repository, allow_patterns=wanted, **options)).absolute()
    except (HfHubHTTPError, OSError, ValueError) as error:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(
            f"no folder {repository!r} here, and not from the hub ({first_line}); check name and network"
        ) from error


def write_folder(folder: Path, write: Callable[[str], None], kept: Path | None) -> None:
    """Writes a model beside `folder`, with what is kept of the folder `kept`, and then puts each part in its
    place, so that no part is ever half there and the files it was loaded from may be replaced. ReadOnlyError.
    """
    try:
        _write_beside(folder, write, kept)
    except OSError as error:
        raise ReadOnlyError(
            f"cannot write the model to {folder}: {error.strerror or error}; choose another folder"
        ) from error


def _write_beside(folder: Path, write: Callable[[str], None], kept: Path | None) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as beside:
        fresh, stale = Path(beside) / "new", Path(beside) / "old"
        stale.mkdir()
        write(str(fresh))
        same = kept is not None and folder.exists() and folder.samefile(kept)
        for name in KEPT if kept is not None and not same else ():
            _copy(kept / name, fresh / name)  # type: ignore[operator]
        with _changing:
            folder.mkdir(exist_ok=True)
            for path in sorted(fresh.iterdir()):
                place = folder / path.name
                if place.is_dir():
                    place.rename(stale / path.name)
                path.replace(place)


def _dtype(options: dict[str, Any]) -> Any:
    """Takes the experts' type out of the options, under diffusers' newer or older name."""
    older, newer = options.pop("torch_dtype", None), options.pop("dtype", None)
    found = older if newer is None else newer
    return found.get("experts", found.get("default")) if isinstance(found, dict) else found


def _copy(source: Path, target: Path) -> None:
    """Copies a file or folder; UsageError for a link out of the model, which would give a stranger's folder a
    file of this machine to upload.
    """
    model = source.parent.resolve()
    # in a hub's cache a model's files are links to the blobs beside the snapshots
    inside = model.parents[1] if model.parent.name == "snapshots" else model
    for path in (source, *source.rglob("*")):
        if not path.resolve().is_relative_to(inside):
            raise UsageError(f"{path} is a link out of the model's folder; put a copy of the file there")
    if source.is_dir():
        shutil.copytree(source, target)
    elif source.is_file():
        shutil.copyfile(source, target)
