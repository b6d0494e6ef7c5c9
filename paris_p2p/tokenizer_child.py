"""Turns text into token numbers, for packages' tokenizers here, for others' folders in a process.

As a program (`python -m paris_p2p.tokenizer_child FOLDER CPU_S MEMORY_BYTES`) it answers JSON lines on stdin
with JSON lines on stdout. A pattern that never ends, or a crash of the native library, ends this process
alone.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MAX_REQUEST_BYTES = 64 << 20
NO_LIMIT = 1 << 20  # transformers writes 1e30 where a tokenizer has no longest text


def open_tokenizer(folder: Path) -> Any:
    """Opens the folder's transformers tokenizer, with a token to pad with.

    OSError or ValueError when there is none.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise ValueError("it has neither a token to pad with nor one that ends a text")
    return tokenizer


def longest(tokenizer: Any) -> int:
    """Returns how many tokens its model takes, as far as the tokenizer knows."""
    return int(min(float(tokenizer.model_max_length or NO_LIMIT), NO_LIMIT))


def token_counts(tokenizer: Any, captions: Sequence[str]) -> list[int]:
    """Counts the tokens of each caption, uncut, with what the tokenizer puts around it."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it warns of texts longer than its model takes, which is the question here
    try:
        return [len(ids) for ids in tokenizer(list(captions))["input_ids"]]
    finally:
        logging.set_verbosity(verbosity)


def cut_tokens(
    tokenizer: Any, captions: Sequence[str], tokens: int
) -> tuple[list[list[int]], list[list[int]]]:
    """Returns (numbers, mask), `tokens` of each for each caption: cut, or padded."""
    words = tokenizer(list(captions), padding="max_length", max_length=tokens, truncation=True)
    return [list(ids) for ids in words["input_ids"]], [list(mask) for mask in words["attention_mask"]]


def _answer(tokenizer: Any, request: dict[str, Any]) -> dict[str, Any]:
    if "tokens" in request:
        ids, mask = cut_tokens(tokenizer, request["captions"], request["tokens"])
        return {"ids": ids, "mask": mask}
    return {"counts": token_counts(tokenizer, request["captions"])}


def _limit_memory(more_bytes: int) -> None:
    """Lets this process take `more_bytes` beyond what it has, where the kernel can say what that is."""
    import resource

    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return
    kibibytes = next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmData:")), 0)
    resource.setrlimit(resource.RLIMIT_DATA, ((kibibytes << 10) + more_bytes, resource.RLIM_INFINITY))


def _limit_cpu(seconds: int) -> None:
    """Lets the kernel end this process after so much more processor time, whatever native code does."""
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    resource.setrlimit(
        resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + 1 + seconds, resource.RLIM_INFINITY)
    )


def main(folder: str, cpu_s: str, memory_bytes: str) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    outgoing = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # what libraries print is no answer
    # Tokenizers need no torch, and with it this process takes twice as long to start.
    sys.modules["torch"] = None  # type: ignore[assignment]
    from transformers import AutoTokenizer  # noqa: F401  before the limits: its time is not the tokenizer's

    _limit_memory(int(memory_bytes))
    _limit_cpu(int(cpu_s))
    try:
        tokenizer = open_tokenizer(Path(folder))
        answer: dict[str, Any] = {"longest": longest(tokenizer)}
    except Exception as error:  # noqa: BLE001  a library's, of any kind: the parent tells it
        answer = {"error": f"{type(error).__name__}: {error}"[:300]}
    while True:
        outgoing.write(json.dumps(answer) + "\n")
        outgoing.flush()
        line = sys.stdin.buffer.readline(MAX_REQUEST_BYTES)
        if not line or "error" in answer:
            return
        _limit_cpu(int(cpu_s))
        try:
            answer = _answer(tokenizer, json.loads(line))
        except Exception as error:  # noqa: BLE001  as above
            answer = {"error": f"{type(error).__name__}: {error}"[:300]}


if __name__ == "__main__":
    main(*sys.argv[1:])
