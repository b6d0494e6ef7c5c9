"""Which prepared clips a run was made of, as one number: a model is evaluated on clips of its own
preparation only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from blake3 import blake3

from paris_p2p.spec import RunSpec


def data_id_of_run(spec: RunSpec) -> str:
    """Returns 64 hex digits over the run's codec and shards: the same for every run that was made of the same
    prepared clips. Where they are sealed, the RunSpec says it.
    """
    if spec.data_id:
        return spec.data_id
    codec = {name: ref.id for name, ref in spec.codec.files.items()}
    shards = [("train", shard.cluster, shard.blob.id) for shard in spec.train_shards]
    shards += [("gate", shard.cluster, shard.blob.id) for shard in spec.gate_shards]
    return data_id((spec.codec.name, spec.codec.revision, spec.codec.sha256), codec, shards)


def data_id(codec: tuple[str, ...], files: Mapping[str, str], shards: Iterable[tuple[str, int, str]]) -> str:
    """Returns 64 hex digits over a codec (name, revision, sha256), its files and all shards, by hash."""
    listed = {"codec": codec, "files": sorted(files.items()), "shards": sorted(shards)}
    return blake3(json.dumps(listed, separators=(",", ":")).encode()).hexdigest()
