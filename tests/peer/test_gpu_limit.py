"""A GPU's limit from before is put back, also where that failed at first."""

from __future__ import annotations

from pathlib import Path

from paris_p2p.peer.gpu_limit import LIMIT_FILE, GpuLimit
from paris_p2p.sensors.fakes import FakeGpus


def test_a_limit_that_could_not_be_put_back_is_not_taken_for_the_gpus_own(tmp_path: Path) -> None:
    gpus, said = FakeGpus(is_root=True), list[str]()
    limit = GpuLimit(tmp_path, gpus, said.append)
    assert limit.keep("GPU-a", 300.0)
    assert gpus.limits_w == {"GPU-a": 300.0}
    gpus.is_root = False  # the driver refuses for a while
    limit.put_back()
    assert (tmp_path / LIMIT_FILE).exists()
    gpus.is_root = True
    later = GpuLimit(tmp_path, gpus, said.append)
    assert later.keep("GPU-a", 250.0)
    later.put_back()
    assert gpus.limits_w == {"GPU-a": 450.0}
    assert not (tmp_path / LIMIT_FILE).exists()
