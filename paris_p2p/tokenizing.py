"""Turns captions into token numbers with the tokenizer of a model's folder.

Its native code may hang or crash on files of others. A package's tokenizer runs here. Any other runs in a
child (tokenizer_child.py) with processor time and memory bounded, and is given only files that were checked:
a regular expression can still be one that never ends, and then the child dies of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Protocol

from paris_p2p.bounded_json import read_json
from paris_p2p.errors import UsageError
from paris_p2p.tokenizer_child import cut_tokens, longest, open_tokenizer, token_counts
from paris_p2p.weights import MAX_CAPTION_CHARACTERS, ModelFiles

# one is needed
VOCABULARIES = frozenset(("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt"))
CPU_S = 30  # to open a tokenizer, and for each request
WALL_S = 600.0  # the same, where it sleeps instead; a loaded machine needs minutes to import transformers
MEMORY_BYTES = 2 << 30
CAPTIONS_AT_ONCE = 64
MAX_ANSWER_BYTES = 256 << 20
_MAX_BYTES = {
    "tokenizer.json": 64 << 20,
    "vocab.json": 16 << 20,
    "merges.txt": 16 << 20,
    "vocab.txt": 16 << 20,
    "tokenizer.model": 16 << 20,
    "spiece.model": 16 << 20,
    "sentencepiece.bpe.model": 16 << 20,
    "special_tokens_map.json": 1 << 20,
    "added_tokens.json": 1 << 20,
    "tokenizer_config.json": 4 << 20,
}
_CLASSES = frozenset(
    (
        "BertTokenizer",
        "BertTokenizerFast",
        "CLIPTokenizer",
        "CLIPTokenizerFast",
        "DistilBertTokenizer",
        "DistilBertTokenizerFast",
        "LlamaTokenizer",
        "LlamaTokenizerFast",
        "MPNetTokenizer",
        "MPNetTokenizerFast",
        "PreTrainedTokenizerFast",
        "SiglipTokenizer",
        "T5Tokenizer",
        "T5TokenizerFast",
        "TokenizersBackend",
        "XLMRobertaTokenizer",
        "XLMRobertaTokenizerFast",
    )
)
# of models, where no tokenizer class is named
_KINDS = frozenset(("bert", "clip", "clip_text_model", "siglip", "t5", "umt5"))
_KEYS = frozenset(
    (
        "add_bos_token",
        "add_eos_token",
        "add_prefix_space",
        "added_tokens_decoder",
        "additional_special_tokens",
        "backend",
        "bos_token",
        "clean_up_tokenization_spaces",
        "cls_token",
        "do_basic_tokenize",
        "do_lower_case",
        "eos_token",
        "errors",
        "extra_ids",
        "extra_special_tokens",
        "legacy",
        "mask_token",
        "model_input_names",
        "model_max_length",
        "pad_token",
        "padding_side",
        "sep_token",
        "split_special_tokens",
        "strip_accents",
        "tokenize_chinese_chars",
        "tokenizer_class",
        "truncation_side",
        "unk_token",
    )
)


class Tokenizer(Protocol):
    """Counts and cuts captions; `longest` is what the tokenizer says its model takes.

    Captions are cut to 2000 characters before anything else.
    """

    @property
    def longest(self) -> int: ...

    def counts(self, captions: Sequence[str]) -> list[int]:
        """Counts the tokens of each caption, uncut."""
        ...

    def cut(self, captions: Sequence[str], tokens: int) -> tuple[list[list[int]], list[list[int]]]:
        """Returns (numbers, mask) of each caption, cut or padded to `tokens`."""
        ...

    def close(self) -> None:
        """Frees what it holds; a later call takes it again."""
        ...


def load_tokenizer(files: ModelFiles) -> Tokenizer:
    """Opens the tokenizer beside a model's weights.

    UsageError when there is none, or it cannot be opened within its bounds.
    """
    here = {path.name: path for path in files.files}
    if not here.keys() & VOCABULARIES:  # transformers would make up an empty one
        known = ", ".join(sorted(VOCABULARIES))
        raise UsageError(
            f"no tokenizer in {files.folder}; put the model's own (one of {known}) beside its weights"
        )
    if files.package:
        return _Here(files.folder)
    digest = hashlib.sha256()
    for name in sorted(here.keys() & (_MAX_BYTES.keys() | {"config.json"})):
        digest.update(name.encode() + b"\0" + hashlib.sha256(here[name].read_bytes()).digest())
    child = _child(digest.hexdigest(), files, CPU_S)
    child.start()
    return child


class _Here:
    """Runs a package's tokenizer in this process."""

    def __init__(self, folder: Path):
        self._tokenizer = open_tokenizer(folder)
        self.longest = longest(self._tokenizer)

    def counts(self, captions: Sequence[str]) -> list[int]:
        return token_counts(self._tokenizer, _cut(captions))

    def cut(self, captions: Sequence[str], tokens: int) -> tuple[list[list[int]], list[list[int]]]:
        return cut_tokens(self._tokenizer, _cut(captions), tokens)

    def close(self) -> None:
        pass


class _Child:
    """Runs a folder's tokenizer in a process of its own, started when it is needed and not there."""

    def __init__(self, files: ModelFiles, cpu_s: int):
        self.files, self.cpu_s, self.longest = files, cpu_s, 0
        self._process: subprocess.Popen[bytes] | None = None
        self._stop: Any = None
        self._lock = threading.RLock()

    def start(self) -> None:
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                return
            self.close()
            with _laid_out(self.files) as folder:
                limits = [str(folder), str(self.cpu_s), str(MEMORY_BYTES)]
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "paris_p2p.tokenizer_child", *limits],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    env=_environment(),
                )
                self._stop = weakref.finalize(self, _end, self._process)
                self.longest = int(self._receive()["longest"])

    def counts(self, captions: Sequence[str]) -> list[int]:
        found: list[int] = []
        for start in range(0, len(captions), CAPTIONS_AT_ONCE):
            found += self._ask({"captions": _cut(captions[start : start + CAPTIONS_AT_ONCE])})["counts"]
        return found

    def cut(self, captions: Sequence[str], tokens: int) -> tuple[list[list[int]], list[list[int]]]:
        ids: list[list[int]] = []
        mask: list[list[int]] = []
        for start in range(0, len(captions), CAPTIONS_AT_ONCE):
            answer = self._ask(
                {"captions": _cut(captions[start : start + CAPTIONS_AT_ONCE]), "tokens": tokens}
            )
            ids += answer["ids"]
            mask += answer["mask"]
        return ids, mask

    def close(self) -> None:
        with self._lock:
            if self._stop is not None:
                self._stop()
            self._process = self._stop = None

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        with self._lock:
            self.start()
            with suppress(BrokenPipeError):  # it died: what follows says of what
                stdin = _pipe(self._process.stdin if self._process is not None else None)
                stdin.write(json.dumps(request).encode() + b"\n")
                stdin.flush()
            return self._receive()

    def _receive(self) -> dict[str, Any]:
        """Reads the child's next line; UsageError when it says what is wrong, ends, or does not answer."""
        process, line, until_s = self._process, bytearray(), time.monotonic() + WALL_S
        descriptor = _pipe(process.stdout if process is not None else None).fileno()
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([descriptor], [], [], max(0.0, until_s - time.monotonic()))
            part = os.read(descriptor, 1 << 20) if ready else b""
            line += part
            if not part or len(line) > MAX_ANSWER_BYTES:
                raise self._failed("it did not answer in time" if not ready else self._how_it_ended())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise self._failed(str(answer["error"]))
        return answer

    def _how_it_ended(self) -> str:
        code = self._process.wait(10) if self._process is not None else 0
        return (
            f"it took more than {self.cpu_s} s of processor time"
            if code == -signal.SIGXCPU
            else f"its process ended with {code}"
        )

    def _failed(self, why: str) -> UsageError:
        self.close()
        return UsageError(
            f"no tokenizer can be used in {self.files.folder} ({why}); take the model's own files anew"
        )


@lru_cache(maxsize=1)
def _child(digest: str, files: ModelFiles, cpu_s: int) -> _Child:
    """Keeps one child at most open; `digest` is of the files that it is made of."""
    return _Child(files, cpu_s)


@contextmanager
def _laid_out(files: ModelFiles) -> Iterator[Path]:
    """Makes a folder with the tokenizer's own files alone, and its settings that are known.

    Each is of bounded size and depth.
    """
    here = {path.name: path for path in files.files}
    with tempfile.TemporaryDirectory(prefix="paris-tokenizer-") as name:
        folder = Path(name)
        for each, max_bytes in _MAX_BYTES.items():
            if each not in here:
                continue
            if each.endswith(".json"):
                value = read_json(here[each], max_bytes)  # its depth, before any other decoder
                if each == "tokenizer_config.json":
                    (folder / each).write_text(json.dumps(_settings(value, here[each])), encoding="utf-8")
                    continue
            elif here[each].stat().st_size > max_bytes:
                raise UsageError(
                    f"{here[each]} has more than the {max_bytes} bytes such a file ever has; do not trust it"
                )
            (folder / each).symlink_to(here[each].resolve())
        kind = files.config().get("model_type") if "config.json" in here else None
        if kind in _KINDS:
            (folder / "config.json").write_text(json.dumps({"model_type": kind}), encoding="utf-8")
        yield folder


def _settings(raw: object, path: Path) -> dict[str, Any]:
    """Returns what a tokenizer's configuration may say; UsageError for a class that is not known here."""
    if not isinstance(raw, dict):
        raise UsageError(f"{path} is not an object; take the model's own files anew")
    named = raw.get("tokenizer_class")
    if named is not None and named not in _CLASSES:
        raise UsageError(
            f"{path} names the tokenizer {str(named)[:60]!r}; known here: {', '.join(sorted(_CLASSES))}"
        )
    return {key: value for key, value in raw.items() if key in _KEYS}


def _environment() -> dict[str, str]:
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {**os.environ, **offline, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def _end(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError):  # what was not sent to a process that died
            _pipe(pipe).close()
    process.kill()
    process.wait()


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise UsageError("the tokenizer's process has gone; call this again")
    return pipe


def _cut(captions: Sequence[str]) -> list[str]:
    return [caption[:MAX_CAPTION_CHARACTERS] for caption in captions]
