"""The owner's word after `paris-run create`, and who may take part (docs/protocol.md, "Notices").

A notice is signed by the owner's key and numbered; each names the one before it. What it changes is one of a
few acts. A certificate lets a peer take part; a token, which travels in an invite, buys one.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, StringConstraints, model_serializer

from paris_p2p.records import (
    MAX_PREVIEWS,
    BlobRef,
    Count,
    Hash,
    PeerId,
    Preview,
    Record,
    Seconds,
    Signed,
    Slot,
    without_controls,
)

Right = Literal["train", "attest", "generate", "store", "admit"]
RIGHTS: tuple[Right, ...] = ("train", "attest", "generate", "store", "admit")
FOREVER_S = 4e9  # a date beyond all others
MAX_NOTICES = 1 << 14  # of one run
MAX_STOCKED = 4096  # blobs in one answer
MAX_SHARDS = 14  # named by one notice, which must fit when it is sealed
MAX_KEPT = 24  # peers that a revoked delegate's admissions go on for, named by one notice
Reason = Annotated[str, StringConstraints(max_length=300), AfterValidator(without_controls)]
PeerName = Annotated[str, StringConstraints(max_length=64), AfterValidator(without_controls)]


def _in_order(rights: tuple[Right, ...]) -> tuple[Right, ...]:
    return tuple(right for right in RIGHTS if right in rights)


Rights = Annotated[tuple[Right, ...], Field(min_length=1, max_length=len(RIGHTS)), AfterValidator(_in_order)]


class Change(Record):
    """Is what a notice changes; `act` says which it is."""

    act: str

    @model_serializer(mode="wrap")
    def _with_act(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {"act": self.act, **handler(self)}  # a field that has its default is left out otherwise


class Admit(Change):
    """Lets a peer take part; with the right `admit` it may sign certificates for others."""

    act: Literal["admit"] = "admit"
    peer: PeerId
    rights: Rights
    until: Seconds = FOREVER_S
    name: PeerName = ""


class Revoke(Change):
    """Ends a peer's part; what it signed since counts for nothing.

    The certificates of a delegate fall with it, but for those of the peers in `keeps`.
    """

    act: Literal["revoke"] = "revoke"
    peer: PeerId
    since: Seconds | None = None  # None: the notice's own date
    keeps: Annotated[tuple[PeerId, ...], Field(max_length=MAX_KEPT)] = ()
    next_key: Hash | Literal[""] = ""  # of a private run's next key: the hash of its secret


class RevokeCard(Change):
    """Takes a card back, and all that stands on it.

    Every card of the slot at `place` or after it, of an epoch below `floor`, is void; claims and cards that
    follow have an epoch of at least `floor`.
    """

    act: Literal["revoke-card"] = "revoke-card"
    slot: Slot
    card: Hash
    place: Count  # the card's seq
    floor: Count  # above every epoch that the slot had


class Pause(Change):
    """Has leads checkpoint, publish and rest, until a `resume`."""

    act: Literal["pause"] = "pause"
    reason: Reason = ""


class Resume(Change):
    act: Literal["resume"] = "resume"


class End(Change):
    """Ends the training of all slots for good; what there is stays fetchable."""

    act: Literal["end"] = "end"
    reason: Reason = ""


class Extend(Change):
    """Changes numbers of the run from the next checkpoint on; None leaves one as it is."""

    act: Literal["extend"] = "extend"
    total_steps: Count | None = None
    decay_steps: Count | None = None
    checkpoint_s: Annotated[float, Field(ge=1, le=86400)] | None = None
    tolerance: Annotated[float, Field(ge=0, le=10)] | None = None
    # Prompts of preview clips, in place of those before. A field of this act and no act of its own: an older
    # peer takes no notice of the field, and would take none of what follows an act that it does not know.
    previews: Annotated[tuple[Preview, ...], Field(max_length=MAX_PREVIEWS)] | None = None


class AddedShard(Record):
    """Names one more webdataset shard of a cluster."""

    split: Literal["train", "gate"]
    cluster: Annotated[int, Field(ge=0, le=255)]
    blob: BlobRef
    clips: Count


class AddClips(Change):
    """Adds shards to the run."""

    act: Literal["add-clips"] = "add-clips"
    shards: Annotated[tuple[AddedShard, ...], Field(min_length=1, max_length=MAX_SHARDS)]


class AddExpert(Change):
    """Splits a cluster: `child` is the run's next expert, and starts as its parent.

    It takes effect when the `parts` notices after it, all of them `add-clips`, are there: their shards stand
    in for all of the parent's.
    """

    act: Literal["add-expert"] = "add-expert"
    parent: Annotated[int, Field(ge=0, le=255)]
    child: Annotated[int, Field(ge=1, le=255)]
    parts: Annotated[int, Field(ge=1, le=4096)]


class DropExpert(Change):
    """Takes an expert out of the mixture at once.

    Its clips go where the `parts` notices after it, all of them `add-clips`, say, once they are there.
    """

    act: Literal["drop-expert"] = "drop-expert"
    expert: Annotated[int, Field(ge=0, le=255)]
    parts: Annotated[int, Field(ge=0, le=4096)] = 0


AnyChange = Admit | Revoke | RevokeCard | Pause | Resume | End | Extend | AddClips | AddExpert | DropExpert


class NoticeRecord(Signed):
    """Says what the owner decided after `create`; its `seq` is its number, from 1 on."""

    kind: Literal["notice"] = "notice"
    seq: Annotated[int, Field(ge=1, le=MAX_NOTICES)]
    previous: Hash  # the id of the notice before; the run id for the first
    change: Annotated[AnyChange, Field(discriminator="act")]


class CertificateRecord(Signed):
    """Lets a peer take part until it expires; signed by the owner, or by a peer that may admit.

    A machine's second key, which generates, goes with the first: it is revoked with `companion_of`. `token`
    is that of the invite which bought it, so that other admitters count its use, too.
    """

    kind: Literal["certificate"] = "certificate"
    peer: PeerId
    rights: Rights
    companion_of: PeerId | Literal[""] = ""
    token: Annotated[bytes, Field(max_length=16)] = b""


class MemberRecord(Signed):
    """Shows the signer's certificate, as the bytes of its envelope."""

    kind: Literal["member"] = "member"
    certificate: Annotated[bytes, Field(max_length=1024)]
    name: PeerName = ""


class KeyBoxRecord(Signed):
    """Holds one of a private run's keys, sealed to the key of one peer."""

    kind: Literal["keybox"] = "keybox"
    number: Annotated[int, Field(ge=1, le=MAX_NOTICES)]
    peer: PeerId
    box: Annotated[bytes, Field(min_length=1, max_length=256)]


class TokenRecord(Signed):
    """Buys certificates from the peers in `admitters`, for as many machines as `uses` says.

    It travels in an invite.
    """

    kind: Literal["token"] = "token"
    token: Annotated[bytes, Field(min_length=16, max_length=16)]
    rights: Rights
    uses: Annotated[int, Field(ge=1, le=100_000)]
    admitters: Annotated[tuple[PeerId, ...], Field(min_length=1, max_length=8)]


class JoinRequest(Record):
    """Asks to be let into a run: with a token, or by asking the owner.

    One machine has two keys, its peer's and its generator's. The connection proves the one, `proof`, a
    signature over `companion_bytes`, the other, so that one use of a token admits both.
    """

    token: Annotated[bytes, Field(max_length=1024)] = b""
    name: PeerName = ""
    is_generator: bool = False  # the connection's key is the machine's generator's
    other: PeerId | Literal[""] = ""
    proof: Annotated[bytes, Field(max_length=64)] = b""


class JoinAnswer(Record):
    """Lets a peer in, or says why not; one that has nothing to say to a stranger gives no answer at all."""

    why: Annotated[str, StringConstraints(pattern=r"^[a-z-]{0,24}$")] = ""  # "": it is let in
    certificate: Annotated[bytes, Field(max_length=1024)] = b""
    other_certificate: Annotated[bytes, Field(max_length=1024)] = b""  # of the machine's other key
    spec: bytes = b""  # the RunSpec, as the owner signed it
    notices: Annotated[tuple[bytes, ...], Field(max_length=512)] = ()  # from the first one on
    # of a private run, sealed to the connection's key
    keys: Annotated[bytes, Field(max_length=1 << 18)] = b""
    # what a storage node of a private run gets in the RunSpec's place
    owner: PeerId | Literal[""] = ""
    owner_node: PeerId | Literal[""] = ""
    attestors: Annotated[tuple[PeerId, ...], Field(max_length=256)] = ()


class Stocked(Record):
    """Names a blob of a private run to a storage node, and what it is to the run: rights differ."""

    thing: Literal["data", "weights", "resume", "gate"]
    blob: BlobRef


class StockList(Record):
    """Tells a storage node which blobs a private run has by now."""

    blobs: Annotated[tuple[Stocked, ...], Field(max_length=MAX_STOCKED)] = ()


class StorageTicket(Record):
    """Is all that a storage node keeps of a private run that let it in: who may say what, and the door keys.

    Each of `doors` is a secret with its mark (keyring.py).
    """

    run: Hash
    owner: PeerId
    owner_node: PeerId
    attestors: Annotated[tuple[PeerId, ...], Field(max_length=256)] = ()
    certificate: Annotated[bytes, Field(max_length=1024)] = b""
    address: Annotated[bytes, Field(min_length=32, max_length=32)]
    doors: Annotated[tuple[tuple[bytes, bytes], ...], Field(min_length=1, max_length=4096)]


def companion_bytes(run: str, peer: str) -> bytes:
    """Returns what a machine's other key signs, so that `peer` may speak for it in a run."""
    return f"paris-p2p/2 companion\0{run}\0{peer}".encode()
