"""The RunSpec that all peers of a run agree on."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    StringConstraints,
    model_validator,
)

from paris_p2p.crew_records import CrewSpec
from paris_p2p.envelope import Envelope, decode, encode, parse, seal_payload, split_envelope, verify_payload
from paris_p2p.errors import RecordError, SignatureError
from paris_p2p.identity import Identity
from paris_p2p.kinds import MAX_ENVELOPE_BYTES
from paris_p2p.records import (
    MAX_PREVIEWS,
    BlobRef,
    Count,
    Hash,
    PeerId,
    Preview,
    Record,
    Seconds,
    Text,
    without_controls,
)
from paris_p2p.weights import check_names

ROUTER = "router"
MAX_TRAIN_SHARDS, MAX_GATE_SHARDS = 16384, 4096  # of one run
MAX_CALIBRATION_SHARDS = 256  # one a cluster
MEMBERSHIP_READER = 4  # the first reader that knows members, notices and sealed records
CREW_READER = 5  # the first that knows crews and compact checkpoints
OPTIONS_READER = 6  # the first that knows what _OPTIONS names
# Training options that are left out of a run's bytes where they are as they were before there were any.
_OPTIONS = ("optimizer", "contrastive", "ema_clips", "ema_profile")
Name = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(without_controls)]
Size = Annotated[int, Field(ge=1, le=1 << 20)]


class ClipShape(Record):
    """Pixels: frames x height x width at fps; an image has one frame."""

    frames: Size
    height: Size
    width: Size
    fps: Annotated[float, Field(gt=0, le=1000)]


class LatentShape(Record):
    """Latents C x T x H x W, after the codec's scaling."""

    channels: Size
    frames: Size
    height: Size
    width: Size

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.channels, self.frames, self.height, self.width


class Pinned(Record):
    """A codec or text encoder, by name and by hash.

    `name` is as on prepare's command line (`pca`, `diffusers:…`, `minilm`, `transformers:…`). A local folder
    travels as `files` (a file's name in the folder -> blob), whose names are checked; a package's or hub's
    model is named with its revision and the `sha256` of its files, without which the holder of the name could
    change it.
    """

    name: Name
    files: dict[Name, BlobRef] = {}
    revision: Name | Literal[""] = ""
    sha256: Annotated[str, StringConstraints(max_length=64)] = ""

    @model_validator(mode="after")
    def _one_folder_of_known_files(self) -> Pinned:
        check_names(self.files)
        if ":" in self.name and not self.files and not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ValueError(
                f"{self.name[:80]!r} is pinned by no hash; prepare the clips again, which finds it"
            )
        return self


class TextShape(Record):
    """Token embeddings L x D with a mask, and a pooled vector P for the router."""

    tokens: Size
    dim: Size
    pooled_dim: Size


class NetworkSpec(Record):
    """A preset's name and every number that makes the network, so that a later preset table changes
    nothing.
    """

    preset: Name
    config: dict[Name, int | float | str | bool]


class ShardRef(Record):
    """One webdataset shard of one cluster and split."""

    blob: BlobRef
    clips: Count
    cluster: Annotated[int, Field(ge=0, le=999)]


class TrainingSpec(Record):
    """How every slot is trained; the same everywhere, because it makes the lineage."""

    batch_clips: Size
    learning_rate: Annotated[float, Field(gt=0, le=1)]
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    warmup_steps: Count = 100
    total_steps: Count = 0  # 0: until the owner ends the run; otherwise the decay ends here
    decay_steps: Count = 0  # linear decay to zero over the last steps before total_steps
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    clip_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    caption_dropout: Annotated[float, Field(ge=0, le=1)] = 0.1
    time_mean: float = 0.0  # logit-normal times: t = sigmoid(mean + std * n)
    time_std: Annotated[float, Field(gt=0)] = 1.0
    # of all times, in training, gate and sampling (flow/path.py)
    time_shift: Annotated[float, Field(gt=0, le=100)] = 1.0
    router_batch_clips: Size = 64
    router_learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-3

    # these predict noise (flow/ddpm.py)
    ddpm_experts: tuple[Annotated[int, Field(ge=0, le=255)], ...] = Field(default=(), max_length=256)

    # of clips whose expert is given the clean first frame
    first_frame_rate: Annotated[float, Field(ge=0, le=1)] = 0.0

    # checkpoints of 8 bytes a parameter instead of 18 (model/compact_state.py)
    compact: bool = False

    # what trains the matrices of the networks' blocks (training/optimizers.py)
    optimizer: Literal["adamw", "muon"] = "adamw"

    # how much experts are kept away from the answers of other captions (training/contrast.py)
    contrastive: Annotated[float, Field(ge=0, lt=1)] = 0.0

    # clips that the average of the weights reaches back over, instead of ema_decay; 0: as that says
    ema_clips: Count = 0

    # "power": two averages, of which one of any length is made after training (model/power_average.py)
    ema_profile: Literal["exponential", "power"] = "exponential"

    @model_validator(mode="after")
    def _ddpm_experts_in_order(self) -> TrainingSpec:
        if list(self.ddpm_experts) != sorted(set(self.ddpm_experts)):
            raise ValueError(f"ddpm_experts must ascend and name each once, not {self.ddpm_experts}")
        return self

    @model_validator(mode="after")
    def _one_way_to_average(self) -> TrainingSpec:
        if self.ema_profile == "power" and self.ema_clips:
            raise ValueError("a power profile grows with the training, so ema_clips cannot go with it")
        return self

    def ema_limit(self, slot: str) -> float:
        """Returns the decay a step of a slot's average, once it is no longer young.

        A step's clips are a share of those that it reaches back over: 16,000 at 16 a step are a decay of
        0.999. One division, so that all members of a crew have the same number.
        """
        if not self.ema_clips:
            return self.ema_decay
        step_clips = self.router_batch_clips if slot == ROUTER else self.batch_clips
        return max(0.0, 1 - step_clips / self.ema_clips)

    @property
    def has_options(self) -> bool:
        """Tells whether the run has training options that readers before OPTIONS_READER do not know."""
        return any(getattr(self, name) != TrainingSpec.model_fields[name].default for name in _OPTIONS)

    @property
    def oldest_reader(self) -> int:
        """Returns the oldest reader that may take part: an older reader would ignore what it does not
        know, and train something else.
        """
        if self.has_options:
            return OPTIONS_READER
        if self.compact:
            return CREW_READER
        return 2 if self.time_shift != 1 or self.ddpm_experts or self.first_frame_rate else 1


class GateSpec(Record):
    """The held-out loss check and who may sign it."""

    clips: Size = 64  # gate clips per check
    tolerance: Annotated[float, Field(ge=0, le=10)] = 0.05  # relative: refused above best * (1 + tolerance)
    members_attest: bool = True  # every peer may attest (members-only runs); otherwise only `attestors`
    attestors: tuple[PeerId, ...] = Field(default=(), max_length=256)
    quorum: Annotated[int, Field(ge=1, le=64)] = 1  # q
    # of the key that the gate's clips are sealed under, which only those get who may attest; "": not sealed
    key_hash: Hash | Literal[""] = ""


class TimingSpec(Record):
    """Claims and checkpoints, in seconds."""

    claim_s: Annotated[float, Field(ge=2, le=3600)] = 120.0  # a claim's length; renewed at a third of it
    settle_s: Annotated[float, Field(ge=0.1, le=60)] = 5.0
    # a lead stops this long before, others wait this long after
    margin_s: Annotated[float, Field(ge=0.1, le=60)] = 5.0
    checkpoint_s: Annotated[float, Field(ge=1, le=86400)] = 600.0


class RunSpec(Record):
    """What a run is; signed by its owner. The run id is the BLAKE3 of the payload bytes."""

    kind: Literal["run"] = "run"
    oldest_reader: Annotated[int, Field(ge=1, le=1000)] = 1
    name: Name
    purpose: Text
    data_licence: Name
    weights_licence: Name
    created_at: Seconds
    rng_seed: Count
    owner: PeerId | Literal[""] = ""  # whose key signs this; sign_run fills it in
    owner_node: PeerId | Literal[""] = ""  # the owner's own node, which seeds first and may attest
    members_only: bool = False  # taking part needs the owner's word (rules/run_state.py)
    private: bool = False  # members only, and sealed for everybody else
    key_hash: Hash | Literal[""] = ""  # of a private run's first key
    clip: ClipShape
    latent: LatentShape
    codec: Pinned
    text: Pinned
    text_shape: TextShape
    experts: Annotated[int, Field(ge=1, le=256)]
    expert: NetworkSpec
    router: NetworkSpec
    # whose clusters the last experts were split from, one each, set by rules/growth.py alone
    parents: tuple[Annotated[int, Field(ge=0, le=255)], ...] = Field(default=(), max_length=256)
    training: TrainingSpec
    gate: GateSpec
    timing: TimingSpec
    train_shards: tuple[ShardRef, ...] = Field(max_length=MAX_TRAIN_SHARDS)
    gate_shards: tuple[ShardRef, ...] = Field(max_length=MAX_GATE_SHARDS)
    # clips that nobody trains on and no gate measures: the router's lead fits its calibration on them
    calibration_shards: tuple[ShardRef, ...] = Field(default=(), max_length=MAX_CALIBRATION_SHARDS)
    # first weights of all slots of a kind; none: fresh from (run, slot)
    initial: dict[Literal["expert", "router"], BlobRef] = {}
    # the network whose features of the first frame the router takes, if it does
    first_features: Pinned | None = None
    # over the plain clips (data_id.py), where the blobs' ids are of sealed ones; "": it follows from them
    data_id: Hash | Literal[""] = ""
    # how several peers train one slot; None: one peer a slot
    crew: CrewSpec | None = None
    # prompts that show how the run comes on (peer/previews.py)
    previews: tuple[Preview, ...] = Field(default=(), max_length=MAX_PREVIEWS)
    # experts that the owner took out later, set by rules/growth.py alone: no signed RunSpec names any
    dropped_experts: tuple[Annotated[int, Field(ge=0, le=255)], ...] = Field(default=(), max_length=256)

    @model_validator(mode="after")
    def _private_goes_with_a_key(self) -> RunSpec:
        if self.private != bool(self.key_hash) or (self.private and not self.members_only):
            raise ValueError("a private run is members-only and names the hash of its first key")
        return self

    @model_validator(mode="after")
    def _clusters_exist(self) -> RunSpec:
        for shard in self.train_shards + self.gate_shards + self.calibration_shards:
            if shard.cluster >= self.experts:
                raise ValueError(f"shard of cluster {shard.cluster} in a run of {self.experts} experts")
        if any(k >= self.experts for k in self.training.ddpm_experts):
            raise ValueError(
                f"ddpm_experts are {self.training.ddpm_experts} in a run of {self.experts} experts"
            )
        return self

    @model_validator(mode="after")
    def _crews_keep_one_average(self) -> RunSpec:
        if self.crew is not None and self.training.ema_profile == "power":
            raise ValueError("a crew keeps one average: a run has crews, or ema_profile power")
        return self

    @model_validator(mode="after")
    def _first_frames_are_possible(self) -> RunSpec:
        if self.training.first_frame_rate and self.latent.frames == 1:
            raise ValueError(
                "first_frame_rate is for clips of several latent frames; these have one, "
                "which would be given away whole"
            )
        if self.training.first_frame_rate and self.expert.config.get("first_frame") is not True:
            raise ValueError("first_frame_rate needs experts whose config says first_frame")
        if (self.first_features is not None) != bool(self.first_width) or (
            self.first_width and not self.training.first_frame_rate
        ):
            raise ValueError("first_features, the router's first_width and first_frame_rate must go together")
        return self

    @property
    def first_width(self) -> int:
        """Returns the width of the first frame's features that the router takes; 0 when it takes none."""
        return int(self.router.config.get("first_width", 0))

    @property
    def needs_membership_reader(self) -> bool:
        """Tells whether a reader that knows no membership, or no sealed clips, must keep out."""
        return self.members_only or self.private or bool(self.gate.key_hash)

    def predicts_noise(self, slot: str) -> bool:
        """Whether the slot is an expert trained on noise, not on the velocity."""
        return slot != ROUTER and cluster_of(slot) in self.training.ddpm_experts

    @property
    def slots(self) -> tuple[str, ...]:
        return (*(f"expert-{k}" for k in range(self.experts) if k not in self.dropped_experts), ROUTER)

    def initial_for(self, slot: str) -> BlobRef | None:
        """Returns the weights that a slot without a checkpoint starts from, where the owner gave some."""
        return self.initial.get("router" if slot == ROUTER else "expert")

    @property
    def data_blobs(self) -> tuple[BlobRef, ...]:
        """Returns every blob that the owner gave: shards, codec, text encoder, the first frame's network,
        first weights.
        """
        every = self.train_shards + self.gate_shards + self.calibration_shards
        shards = tuple(shard.blob for shard in every)
        files = tuple(ref for model in self.models for ref in model.files.values())
        return shards + files + tuple(self.initial.values())

    @property
    def models(self) -> tuple[Pinned, ...]:
        """Returns what a generator needs beside the slots' weights."""
        return (self.codec, self.text, *(() if self.first_features is None else (self.first_features,)))

    def shards_for(self, slot: str, split: Literal["train", "gate"]) -> tuple[ShardRef, ...]:
        """Returns an expert's own cluster's shards; all of them for the router."""
        shards = self.train_shards if split == "train" else self.gate_shards
        return shards if slot == ROUTER else tuple(s for s in shards if s.cluster == cluster_of(slot))


def cluster_of(slot: str) -> int:
    """Returns k of `expert-k`; ValueError for the router."""
    return int(slot.removeprefix("expert-"))


def sign_run(owner: Identity, spec: RunSpec) -> Envelope[RunSpec]:
    """Returns the owner's envelope of a RunSpec that names the owner; its `.id` is the run id."""
    oldest = (
        OPTIONS_READER
        if spec.training.has_options or spec.expert.config.get("time_skip")
        else CREW_READER
        if spec.crew or spec.training.compact
        else MEMBERSHIP_READER
        if spec.needs_membership_reader
        else 1
    )
    spec = spec.model_copy(update={"owner": owner.peer_id, "oldest_reader": max(oldest, spec.oldest_reader)})
    return seal_payload(owner, "run", "", encode(_dump(spec)), spec)


def _dump(spec: RunSpec) -> dict[str, Any]:
    """Returns the fields of a RunSpec; what readers before MEMBERSHIP_READER do not know is left out where it
    has its default, so that an open run's bytes are as they always were.
    """
    fields = spec.model_dump()
    for holder, names in (
        (
            fields,
            (
                "members_only",
                "key_hash",
                "data_id",
                "parents",
                "dropped_experts",
                "crew",
                "calibration_shards",
                "previews",
            ),
        ),
        (fields["training"], ("compact",)),
        (fields["gate"], ("key_hash",)),
    ):
        for name in names:
            if not holder[name]:
                del holder[name]
    for name in _OPTIONS:
        if fields["training"][name] == TrainingSpec.model_fields[name].default:
            del fields["training"][name]
    return fields


def open_run(data: bytes, run_id: str | None = None) -> Envelope[RunSpec]:
    """Verifies the owner's signature and, when given, that the payload's hash is the run id in the invite."""
    payload, signer, signature = split_envelope(data, MAX_ENVELOPE_BYTES["run"])
    verify_payload("run", "", payload, signer, signature)
    raw = decode(payload)
    if raw.get("kind") != "run":
        raise RecordError(f"expected a RunSpec, got a record of kind {str(raw.get('kind'))[:32]!r}")
    envelope = Envelope(record=parse(RunSpec, raw), signer=signer, payload=payload, data=data)
    if envelope.record.dropped_experts or envelope.record.parents:
        raise RecordError(
            "the RunSpec names dropped or split experts, which only a notice can; ask another peer"
        )
    if envelope.record.owner != signer:  # anybody can sign a copy; the run id covers who made it
        raise SignatureError(
            f"the RunSpec says it is {envelope.record.owner or 'nobody'}'s and {signer} signed it; "
            "ask another peer"
        )
    if run_id is not None and envelope.id != run_id:
        raise RecordError(
            f"the RunSpec received hashes to {envelope.id[:16]}…, the invite names {run_id[:16]}…; "
            "ask another peer"
        )
    return envelope
