"""Every error this project raises on purpose, as one tree.

ParisError                      what happened, with the values, and what to do; carries the exit status
├── UsageError                  the command asked for something that cannot be (exit 2)
│   ├── InviteError             the invite is malformed
│   ├── TwinError               another node runs with the same key
│   └── PresetError             no preset, profile or codec has that name
├── DataError                   the owner's clips cannot make this run
├── RecordError                 bytes that claim to be a record are not a valid one
│   ├── SignatureError          the signature is not the signer's
│   ├── MissingKeyError         it is sealed under a key that is not here
│   └── VersionError            the record, or a peer, asks for another version of the protocol
├── BlobError                   bytes that claim to be a blob are not
│   ├── ManifestError           the manifest does not match its blob id, or is out of bounds
│   ├── ChunkError              a chunk does not match its hash
│   ├── MissingBlobError        a blob is not here, or nobody reachable has it
│   └── SealError               a sealed blob cannot be opened
├── StoreError                  this disk
│   ├── DiskFullError           no space left, or our own cap reached
│   └── ReadOnlyError           cannot write there
├── SwarmError                  the other peers
│   ├── DaemonError             p2pd did not start or died; carries its own words
│   │   └── DaemonGoneError     it died while it was asked; the next one may be asked the same
│   ├── PortInUseError          another program listens there
│   ├── UnreachableError        nobody answered
│   │   ├── BusyError           a peer answered that it serves others now; it may be asked again
│   │   └── OlderPeerError      a peer answered that it knows no such question
│   └── ClockError              this machine's clock is off
├── RevokedError                the run's owner ended this peer's part in it
├── TrainError                  training cannot go on
│   ├── DeviceError             the device asked for is not there
│   ├── MemoryLimitError        the memory limit was reached
│   └── DivergedError           the loss or the weights are not finite
├── CheckpointError             a checkpoint's tensors are not what the run says they must be
├── UpdateFormatError           bytes that claim to be an update are not a valid one
├── InexactError                this machine computes a merge otherwise than others do
└── SlotMissingError            slots needed for generating have no tip
"""

from __future__ import annotations


class ParisError(Exception):
    """Base of all; `str(error)` is shown to a person as it is."""

    exit_code = 1


class UsageError(ParisError):
    exit_code = 2


class InviteError(UsageError):
    pass


class TwinError(UsageError):
    pass


class PresetError(UsageError):
    pass


class DataError(ParisError):
    pass


class RecordError(ParisError):
    pass


class SignatureError(RecordError):
    pass


class MissingKeyError(RecordError):
    pass


class VersionError(RecordError):
    pass


class BlobError(ParisError):
    pass


class ManifestError(BlobError):
    pass


class ChunkError(BlobError):
    pass


class MissingBlobError(BlobError):
    pass


class SealError(BlobError):
    pass


class StoreError(ParisError):
    pass


class DiskFullError(StoreError):
    pass


class ReadOnlyError(StoreError):
    pass


class SwarmError(ParisError):
    pass


class DaemonError(SwarmError):
    pass


class DaemonGoneError(DaemonError):
    pass


class PortInUseError(SwarmError):
    pass


class UnreachableError(SwarmError):
    pass


class BusyError(UnreachableError):
    pass


class OlderPeerError(UnreachableError):
    pass


class ClockError(SwarmError):
    pass


class RevokedError(ParisError):
    pass


class TrainError(ParisError):
    pass


class MachineError(TrainError):
    """Training failed for what the machine lacks, not for what it began with."""


class DeviceError(MachineError):
    pass


class MemoryLimitError(MachineError):
    pass


class DivergedError(TrainError):
    pass


class CheckpointError(ParisError):
    pass


class UpdateFormatError(ParisError):
    pass


class InexactError(ParisError):
    pass


class SlotMissingError(ParisError):
    pass
