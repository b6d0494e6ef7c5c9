"""Makes the run that a dev-swarm trains: the owner's, under another key, id and timing, on links to its
blobs. So nothing of it can count in the real run, whose folder is read and never written.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from paris_p2p.disk import make_directory, write_atomic
from paris_p2p.envelope import Envelope
from paris_p2p.errors import MissingBlobError
from paris_p2p.identity import Identity, load_or_create_peer_key
from paris_p2p.keyring import Keyring, load_keyring, save_keyring
from paris_p2p.preparation.create import load_run
from paris_p2p.run_file import RUN_FILE
from paris_p2p.spec import RunSpec, TimingSpec, sign_run
from paris_p2p.store.blob_files import blob_file


def scratch_run(folder: Path, out: Path, timing: TimingSpec) -> Envelope[RunSpec]:
    """Makes `out` a folder that `paris-run publish` takes; UsageError where `folder` holds no run.

    MissingBlobError where the owner's node there has not all that the run consists of.
    """
    run = load_run(folder)
    home = out / "node"
    make_directory(home)
    node = load_or_create_peer_key(home / "identity.key")
    for ref in run.record.data_blobs:
        for kind in ("manifest", "data"):
            _link(blob_file(folder / "node" / "blobs", ref.id, kind), blob_file(home / "blobs", ref.id, kind))
    gate = run.record.gate
    changes = {
        "name": f"dev-swarm of {run.record.name}"[:80],
        "created_at": time.time(),
        "owner_node": node.peer_id,
        "timing": timing,
        "gate": gate if gate.members_attest else gate.model_copy(update={"attestors": (node.peer_id,)}),
    }
    signed = sign_run(Identity.generate(), run.record.model_copy(update=changes))
    ring = load_keyring(folder / "node" / "runs" / run.id)
    if ring != Keyring():
        save_keyring(home / "runs" / signed.id, ring)
    if run.record.private:
        save_keyring(out, ring)
    write_atomic(out / RUN_FILE, signed.data)
    return signed


def _link(source: Path, target: Path) -> None:
    """Links a file, or copies it where the disk has no links."""
    if not source.exists():
        raise MissingBlobError(
            f"{source} is not there: the folder's own node lacks a part of its run; "
            "restore it from a backup, or mend it with `paris verify --heal`"
        )
    make_directory(target.parent)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
