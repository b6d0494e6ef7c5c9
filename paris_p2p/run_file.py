"""A run's signed RunSpec in a file: read in this one place, where nothing in it is believed before it is
checked.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from paris_p2p.disk import write_atomic
from paris_p2p.envelope import Envelope
from paris_p2p.errors import RecordError, StoreError, VersionError
from paris_p2p.kinds import MAX_ENVELOPE_BYTES
from paris_p2p.spec import RunSpec, open_run

RUN_FILE = "run.spec"


def read_run(path: Path, run_id: str | None = None, *, mend: str) -> Envelope[RunSpec]:
    """Returns the RunSpec in a file, its size, its signature and, when given, its run id checked.

    RecordError names a damaged file, StoreError one that cannot be read, and both say `mend`, what to do
    about it; VersionError when the file is good and of a later version of this program.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_ENVELOPE_BYTES["run"] + 1)  # one more than is accepted, whatever lies there
        return open_run(data, run_id)
    except OSError as error:
        raise StoreError(f"cannot read the RunSpec {path}: {error.strerror}; {mend}") from error
    except VersionError:
        raise
    except RecordError as error:
        fault = str(error).partition("; ")[0]  # what to do is another matter than for a peer's answer
        raise RecordError(f"the RunSpec {path} is damaged: {fault}; {mend}") from error


def write_effective(path: Path, spec: RunSpec) -> None:
    """Writes a RunSpec with what notices changed in it, for this node's own trainer and gate."""
    # the RunSpec of a private run is no other user's business
    write_atomic(path, spec.model_dump_json(), mode=0o600, durable=False)


def read_effective(path: Path, signed: RunSpec) -> RunSpec:
    """Returns what this node wrote; StoreError where it cannot be read or is not of the signed RunSpec."""
    try:
        spec = RunSpec.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise StoreError(f"cannot read {path}, which this node wrote: {str(error)[:160]}") from error
    if (spec.owner, spec.created_at, spec.latent) != (signed.owner, signed.created_at, signed.latent):
        raise StoreError(f"{path} is not of this run; start this peer again")
    return spec
