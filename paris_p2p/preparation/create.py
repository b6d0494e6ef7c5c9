"""Makes a signed run of prepared clips: the owner's key, the blobs' names, the networks' numbers."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from paris_p2p.crew_records import MAX_PEERS, CrewSpec
from paris_p2p.data.prepared import Prepared, PreparedModel, Split
from paris_p2p.disk import make_directory, write_atomic
from paris_p2p.envelope import Envelope
from paris_p2p.errors import UsageError
from paris_p2p.flow.path import shift_for
from paris_p2p.identity import Identity, load_or_create_peer_key, load_owner_key, save_owner_key
from paris_p2p.keyring import Keyring, save_keyring
from paris_p2p.model.presets import Config, count_parameters, count_tokens, expert_config, router_config
from paris_p2p.preparation.folder_id import data_id_of_folder
from paris_p2p.preparation.intake import Intake
from paris_p2p.records import MAX_PREVIEWS, BlobRef, Count, Preview, Text
from paris_p2p.rules.crew_defaults import default_crew
from paris_p2p.run_file import RUN_FILE, read_run
from paris_p2p.spec import (
    GateSpec,
    Name,
    NetworkSpec,
    Pinned,
    RunSpec,
    ShardRef,
    TimingSpec,
    TrainingSpec,
    sign_run,
)
from paris_p2p.store.blobs import BlobStore
from paris_p2p.store.data_dir import make_private

KEY_FILE = "owner.key"


def _crew_peers(peers: int) -> int:
    if peers and not 2 <= peers <= MAX_PEERS:
        raise ValueError(f"{peers} is no size of a crew: 2 to {MAX_PEERS} machines, or 0 for one alone")
    return peers


class CreateOptions(BaseModel):
    """Holds what the owner decides."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    purpose: Text
    data_licence: Name
    weights_licence: Name
    expert: str
    router: str
    training: TrainingSpec
    gate: GateSpec
    timing: TimingSpec
    rng_seed: Count = 0
    crew: Annotated[int, AfterValidator(_crew_peers)] = 0  # that train a slot together; 0: one alone
    previews: Annotated[tuple[Preview, ...], Field(max_length=MAX_PREVIEWS)] = ()
    time_skip: bool = False  # patches reach an expert's answer directly (model/time_skip.py)
    shift_by_tokens: bool = False  # instead of training.time_shift
    init_from: Path | None = None  # a checkpoint that every expert starts from
    members_only: bool = False  # taking part needs the owner's word
    private: bool = False  # members only, and everything is sealed for others
    seal_gate: bool = True  # the gate's clips are for those who attest; False makes runs as before version 2

    @model_validator(mode="after")
    def _private_runs_have_members(self) -> CreateOptions:
        if self.private and not (self.members_only and self.seal_gate):
            raise ValueError("a private run is for members only, and its gate is sealed")
        return self


def create_run(
    folder: Path, options: CreateOptions, passphrase: str | None, say: Callable[[str], None] = lambda _: None
) -> Envelope[RunSpec]:
    """Signs the run of a prepared folder and puts its blobs into the owner's node there.

    Writes `owner.key`, `run.spec` and `node/`; the owner's node may attest, whichever other peers may.
    UsageError when the folder is not prepared, or holds a run already: its peers would not follow a second
    one. `say` is given the account of the experts' first weights.
    """
    prepared = Prepared.load(folder)
    _check(folder, prepared, options)
    owner = _owner(folder / KEY_FILE, passphrase)
    home = folder / "node"
    is_new = not home.exists()
    make_directory(home)
    make_private(home, is_new=is_new)
    node = load_or_create_peer_key(home / "identity.key")
    intake = Intake.of_new_run(
        BlobStore(home / "blobs"), private=options.private, seal_gate=options.seal_gate
    )
    config = _expert_config(options, prepared)
    config, initial = _first_weights(folder, options, config, intake, say)
    spec = _spec(folder, prepared, options, intake, node.peer_id)
    expert = NetworkSpec(preset=options.expert, config=config)
    oldest_reader = max(spec.oldest_reader, 2 if initial else 1)  # an older peer would start from nothing
    run = sign_run(
        owner, spec.model_copy(update={"expert": expert, "initial": initial, "oldest_reader": oldest_reader})
    )
    if intake.ring != Keyring():
        save_keyring(home / "runs" / run.id, intake.ring)  # before there is a run that needs it
    if options.private:
        save_keyring(folder, intake.ring)  # beside the owner's key: `paris-run say` seals under them
    write_atomic(folder / RUN_FILE, run.data)
    return run


def _check(folder: Path, prepared: Prepared, options: CreateOptions) -> None:
    absent = [k for k in options.training.ddpm_experts if k >= prepared.experts]
    if absent:
        raise UsageError(
            f"there is no expert {absent[0]} to train on noise: "
            f"{folder} has experts 0 to {prepared.experts - 1}"
        )
    if (folder / RUN_FILE).exists():
        raise UsageError(
            f"{folder} already holds run {load_run(folder).id[:16]}…; "
            "prepare into another folder for another run"
        )
    if options.training.first_frame_rate:
        _check_first_frames(folder, prepared)


def load_run(folder: Path) -> Envelope[RunSpec]:
    """Returns the run that was created in a folder; UsageError where there is none, RecordError where it is
    damaged.
    """
    path = folder / RUN_FILE
    if not path.exists():
        raise UsageError(f"{folder} holds no run; make one with `paris-run create {folder}`")
    return read_run(path, mend="restore it from a backup: nothing else is this run")


def _owner(path: Path, passphrase: str | None) -> Identity:
    if path.exists():
        return load_owner_key(path, passphrase)
    owner = Identity.generate()
    save_owner_key(owner, path, passphrase)
    return owner


def _spec(folder: Path, prepared: Prepared, options: CreateOptions, intake: Intake, node_id: str) -> RunSpec:
    expert = _expert_config(options, prepared)
    looks = prepared.first_features if options.training.first_frame_rate else None
    try:
        training = _training(options, count_tokens(expert, prepared.latent.shape))
        return RunSpec(
            oldest_reader=training.oldest_reader,
            name=options.name,
            purpose=options.purpose,
            data_licence=options.data_licence,
            weights_licence=options.weights_licence,
            created_at=time.time(),
            rng_seed=options.rng_seed,
            owner_node=node_id,
            members_only=options.members_only,
            private=options.private,
            key_hash=intake.key.hash if intake.key else "",
            data_id=data_id_of_folder(folder, prepared) if intake.gate else "",
            clip=prepared.clip,
            latent=prepared.latent,
            codec=_pinned(folder, prepared.codec, intake),
            text=_pinned(folder, prepared.text, intake),
            text_shape=prepared.text_shape,
            experts=prepared.experts,
            expert=NetworkSpec(preset=options.expert, config=expert),
            router=NetworkSpec(preset=options.router, config=_router_config(options, prepared)),
            first_features=_pinned(folder, looks, intake) if looks is not None else None,
            training=training,
            crew=_crew(options, count_parameters(expert, router=False)) if options.crew else None,
            gate=_gate(options.gate, node_id, intake),
            timing=options.timing,
            train_shards=_shards(folder, prepared, "train", intake.add),
            gate_shards=_shards(folder, prepared, "gate", intake.add_gate),
            calibration_shards=_calibration_shards(folder, prepared, intake) if prepared.experts > 1 else (),
            previews=options.previews,
        )
    except ValidationError as error:
        raise _mistake(folder, error) from error


def _crew(options: CreateOptions, parameters: int) -> CrewSpec:
    """Returns the numbers of the run's crews, for experts of so many parameters (rules/crew_defaults.py)."""
    timing, total_steps = options.timing, options.training.total_steps
    steps_a_round = options.crew * CrewSpec().most_steps
    rounds = max(1, total_steps // steps_a_round) if total_steps else 0
    return default_crew(options.crew, parameters, timing.checkpoint_s, rounds)


def _gate(gate: GateSpec, node_id: str, intake: Intake) -> GateSpec:
    """Returns the owner's choices, with the owner's node among the attestors where they are named."""
    gate = gate.model_copy(update={"key_hash": intake.gate.hash if intake.gate else ""})
    if gate.members_attest:
        return gate
    return gate.model_copy(update={"attestors": tuple(dict.fromkeys((node_id, *gate.attestors)))})


def _mistake(folder: Path, error: ValidationError) -> UsageError:
    first = error.errors()[0]
    where, why = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
    if not where:  # of a whole record, whose fields do not go together
        return UsageError(f"{folder} cannot become a run: {why}")
    return UsageError(f"the run's {where} cannot be {first['input']!r}: {why}")


def _expert_config(options: CreateOptions, prepared: Prepared) -> Config:
    return expert_config(
        options.expert,
        prepared.latent,
        prepared.text_shape,
        first_frame=options.training.first_frame_rate > 0,
        time_skip=options.time_skip,
    )


def _router_config(options: CreateOptions, prepared: Prepared) -> Config:
    width = prepared.first_width if options.training.first_frame_rate else 0
    return router_config(
        options.router, prepared.latent, prepared.text_shape, prepared.experts, first_width=width
    )


def _check_first_frames(folder: Path, prepared: Prepared) -> None:
    """Raises UsageError when these clips cannot start from an image.

    They are images, or their codec does not encode a picture alone as it encodes a clip's first frame.
    """
    from paris_p2p.codec.video import check_first_latent, load_codec

    if prepared.latent.frames == 1:
        raise UsageError(
            f"--first-frame-rate is for clips of several latent frames, and those of {folder} have one; "
            "leave it out"
        )
    pinned = prepared.codec
    local = (folder / next(iter(pinned.files.values()))).parent if pinned.files else None
    codec = load_codec(pinned.name, local, revision=pinned.revision, sha256=pinned.sha256)
    check_first_latent(codec, prepared.clip)


def _training(options: CreateOptions, tokens: int) -> TrainingSpec:
    """Returns the owner's choices, with times shifted by the clips' token count if so chosen."""
    if not options.shift_by_tokens:
        return options.training
    return TrainingSpec.model_validate(options.training.model_dump() | {"time_shift": shift_for(tokens)})


def _first_weights(
    folder: Path, options: CreateOptions, config: Config, intake: Intake, say: Callable[[str], None]
) -> tuple[Config, dict[Literal["expert"], BlobRef]]:
    """Returns the expert's numbers and the blob of the weights that all experts start from."""
    from paris_p2p.preparation.initial import make_initial

    if options.init_from is None:
        return config, {}
    made = folder / "node" / "initial.safetensors"
    config, start = make_initial(options.init_from, config, options.rng_seed, made)
    say(start.describe())
    return config, {"expert": intake.add(made, move=True)}


def _shards(
    folder: Path, prepared: Prepared, split: Split, take_in: Callable[[Path], BlobRef]
) -> tuple[ShardRef, ...]:
    return tuple(
        ShardRef(blob=take_in(folder / shard.path), clips=shard.clips, cluster=shard.cluster)
        for shard in prepared.shards_for(split)
    )


def _calibration_shards(folder: Path, prepared: Prepared, intake: Intake) -> tuple[ShardRef, ...]:
    """Returns the first validation shard of each cluster that has clips there: the router's lead asks no more
    clips of them than one shard holds.
    """
    firsts = {shard.cluster: shard for shard in reversed(prepared.shards_for("validation")) if shard.clips}
    return tuple(
        ShardRef(blob=intake.add(folder / shard.path), clips=shard.clips, cluster=cluster)
        for cluster, shard in sorted(firsts.items())
    )


def _pinned(folder: Path, model: PreparedModel, intake: Intake) -> Pinned:
    files = {name: intake.add(folder / path) for name, path in model.files.items()}
    return Pinned(name=model.name, files=files, revision=model.revision, sha256=model.sha256)
