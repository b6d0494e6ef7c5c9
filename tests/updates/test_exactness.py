"""One merge, many machines: the same hash whatever the processor can do, with one thread or two."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from paris_p2p.errors import InexactError
from paris_p2p.updates import known_merge
from paris_p2p.updates.exactness import check_arithmetic

ALONE = """
import numpy as np
from paris_p2p.updates.known_merge import known_merge
print(known_merge(), *np.show_config("dicts")["SIMD Extensions"].get("found", []))
"""
SHOWS = "import sys, paris_p2p.updates.known_merge; print('torch' in sys.modules)"
# Of what this numpy has several versions of its loops for: all, and what is newer than AVX2.
NEWER: list[str] = np.show_config("dicts")["SIMD Extensions"].get("found", [])
NEWEST = [name for name in NEWER if "512" in name or name == "X86_V4"]


def in_a_process(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.parametrize(
    "disabled", [[], NEWEST, NEWER], ids=["all it has", "no AVX-512", "neither AVX-512 nor AVX2 nor FMA"]
)
@pytest.mark.parametrize("threads", ["1", "2"])
def test_a_merge_is_the_same_bytes_without_the_processors_newer_parts(
    disabled: list[str], threads: str
) -> None:
    found = in_a_process(ALONE, NPY_DISABLE_CPU_FEATURES=" ".join(disabled), OMP_NUM_THREADS=threads)
    assert found.split() == [known_merge.KNOWN_HASH, *(name for name in NEWER if name not in disabled)]


def test_merging_needs_no_torch() -> None:
    assert in_a_process(SHOWS) == "False"


def test_this_machine_computes_as_all_do() -> None:
    check_arithmetic()
    known_merge.check_known_merge()


def test_a_machine_that_merges_otherwise_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_merge, "KNOWN_HASH", "00" * 32)
    with pytest.raises(InexactError, match="neither lead nor attest"):
        known_merge.check_known_merge()


def test_flushed_subnormals_are_found() -> None:
    assert torch.set_flush_denormal(True)
    try:
        with pytest.raises(InexactError, match="smallest number"):
            check_arithmetic()
    finally:
        torch.set_flush_denormal(False)
    check_arithmetic()
