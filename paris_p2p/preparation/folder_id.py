"""Which clips lie in a prepared folder, as the number that its run names (data_id.py)."""

from __future__ import annotations

from pathlib import Path

from paris_p2p.data.prepared import Prepared
from paris_p2p.data_id import data_id
from paris_p2p.errors import DataError
from paris_p2p.store.blob_files import hash_file


def data_id_of_folder(folder: Path, prepared: Prepared) -> str:
    """Returns the data id of a prepared folder, whose files are read and hashed; DataError when one is
    missing.
    """
    try:
        codec = {name: hash_file(folder / path).blob_id for name, path in prepared.codec.files.items()}
        shards = [
            (split, shard.cluster, hash_file(folder / shard.path).blob_id)
            for split in ("train", "gate")
            for shard in prepared.shards_for(split)
        ]
    except OSError as error:
        raise DataError(f"{folder} is not whole ({error}); prepare the clips again") from error
    return data_id((prepared.codec.name, prepared.codec.revision, prepared.codec.sha256), codec, shards)
