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
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Protocol

from paris_p2p.errors import UsageError
from paris_p2p.tokenizer_child import cut_tokens, longest, open_tokenizer, token_counts
from paris_p2p.tokenizer_files import MAX_FILE_BYTES_OF, laid_out_tokenizer
from paris_p2p.weights import MAX_CAPTION_CHARACTERS, ModelFiles

# one is needed
VOCABULARIES = frozenset(("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt"))
CPU_S = 30  # to open a tokenizer, and for each request
WALL_S = 600.0  # the same, where it sleeps instead; a loaded machine needs minutes to import transformers
MEMORY_BYTES = 2 << 30
CAPTIONS_AT_ONCE = 64
MAX_ANSWER_BYTES = 256 << 20


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
    for name in sorted(here.keys() & (MAX_FILE_BYTES_OF.keys() | {"config.json"})):
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
            with laid_out_tokenizer(self.files) as folder:
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
