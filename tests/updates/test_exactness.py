"""One merge, many machines: the same hash whatever the processor can do, with one thread or two."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from paris_p2p.errors import InexactError
from paris_p2p.updates import known_merge
from paris_p2p.updates.exactness import check_arithmetic

ALONE = "from paris_p2p.updates.known_merge import known_merge; print(known_merge())"
SHOWS = "import sys, paris_p2p.updates.known_merge; print('torch' in sys.modules)"


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
    "disabled",
    ["", "X86_V4 AVX512_ICL AVX512_SPR", "X86_V3 X86_V4 AVX512_ICL AVX512_SPR", "AVX512F AVX2 FMA3"],
    ids=["all it has", "no AVX-512", "no AVX2, no FMA", "the names of older numpys"],
)
@pytest.mark.parametrize("threads", ["1", "2"])
def test_a_merge_is_the_same_bytes_without_the_processors_newer_parts(disabled: str, threads: str) -> None:
    found = in_a_process(ALONE, NPY_DISABLE_CPU_FEATURES=disabled, OMP_NUM_THREADS=threads)
    assert found == known_merge.KNOWN_HASH


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
