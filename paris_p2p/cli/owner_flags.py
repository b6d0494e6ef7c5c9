"""The options of `paris-run`, in groups."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from paris_p2p.cli import typed
from paris_p2p.cli.choices import EmaProfile, ExpertPreset, Optimizer, RouterPreset
from paris_p2p.cli.groups import (
    LINE,
    MACHINE,
    LanOption,
    NodeFlags,
    option,
    setting,
)

CLIPS, MODELS = "Clips", "Models that read the clips"
TRAINING, GATE, TIMING = "Training", "Gate: what a checkpoint must pass, and who says so", "Timing"


@dataclass(frozen=True)
class PrepareFlags:
    """Holds the options of what clips become."""

    experts: Annotated[
        int,
        option(
            "Clusters, and so experts; 0: as many as the clips carry.", "N", "--experts", "-k", min=0, max=256
        ),
    ] = 0
    rng_seed: Annotated[int, option("Seed of splits, clusters and a trained codec.", "N", min=0)] = 0
    frames: Annotated[
        int, option("Frames per clip; 1 for images, and for stills of videos.", "N", panel=CLIPS, min=1)
    ] = 8
    height: Annotated[int, option("Height of the clips.", "PIXELS", panel=CLIPS, min=8)] = 64
    width: Annotated[int, option("Width of the clips.", "PIXELS", panel=CLIPS, min=8)] = 64
    fps: Annotated[
        float, option("Frames per second that the clips are resampled to.", "RATE", panel=CLIPS, min=0.1)
    ] = 8.0
    clips_per_video: Annotated[
        int,
        option(
            "Clips taken from one video at most; longer ones are parted into scenes.", "N", panel=CLIPS, min=1
        ),
    ] = 64
    caption_encoding: Annotated[
        str,
        option(
            "Encoding, such as cp1252, of captions that are neither UTF-8 nor marked UTF-16; "
            "without it those are skipped.",
            "NAME",
            panel=CLIPS,
        ),
    ] = ""
    codec: Annotated[
        str,
        option(
            "pca; train or train:video, fitted on your clips; or diffusers: with a folder or hub id.",
            "NAME",
            panel=MODELS,
        ),
    ] = "pca"
    codec_steps: Annotated[
        int, option("Optimizer steps of a codec that is trained.", "N", panel=MODELS, min=1)
    ] = 1000
    codec_equivariance: Annotated[
        float,
        option(
            "Share of these steps that turn and shrink latents as pictures are, such as 0.5.",
            "SHARE",
            panel=MODELS,
            min=0,
            max=1,
        ),
    ] = 0.0
    text: Annotated[
        str,
        option("Text encoder: minilm, or transformers: with a folder or hub id.", "NAME", panel=MODELS),
    ] = "minilm"
    text_tokens: Annotated[
        int,
        option(
            "Tokens read of each caption; 0: as many as the longest has and the encoder takes.",
            "N",
            panel=MODELS,
            min=0,
            max=4096,
        ),
    ] = 0
    features: Annotated[
        str,
        option(
            "What clusters are found by: efficientnet-lite0, transnetv2, or transformers:, clip: "
            "or videomae: with a folder or hub id.",
            "NAME",
            panel=MODELS,
        ),
    ] = "efficientnet-lite0"
    image_to_video: Annotated[
        bool,
        option(
            "Look at first frames, so that a router may know them: for create --first-frame-rate.",
            None,
            "--image-to-video",
            panel=MODELS,
        ),
    ] = False
    device: Annotated[
        str,
        option(
            "Where codec, text encoder and features compute: auto, cpu, cuda or cuda:N.",
            "DEVICE",
            panel=MACHINE,
            parser=typed.device,
        ),
    ] = "cpu"
    threads: Annotated[int, option("Videos worked on side by side.", "N", panel=MACHINE, min=1)] = 2


IntoOption = Annotated[
    Path | None,
    option(
        "The folder of a created run that the clips are to join: its own codec, text encoder and clusters.",
        "FOLDER",
        parser=typed.prepared("the run's folder"),
    ),
]
SkipFarFlag = Annotated[
    bool, option("With --into: leave out clips that lie far from all clusters.", None, "--skip-far")
]


@dataclass(frozen=True)
class RunFlags:
    """Holds the options of what a run is."""

    name: Annotated[
        str, option("What people see.", "NAME", show_default="the name of the folder")
    ] = ""  # fmt: skip
    purpose: Annotated[str, option("What the model is for.", "TEXT")] = "not stated"
    data_licence: Annotated[str, option("Licence of the clips.", "NAME")] = "not stated"
    weights_licence: Annotated[str, option("Licence of the trained weights.", "NAME")] = "not stated"
    expert: Annotated[
        ExpertPreset,
        option(
            "Size of an expert: nano, micro, tiny, small, medium, large, dit-b-2, dit-xl-2, mmdit-nano, "
            "mmdit-tiny or mmdit-11b.",
            "PRESET",
        ),
    ] = "tiny"
    router: Annotated[
        RouterPreset,
        option("Size of the router: nano, micro, tiny, small, medium or dit-b-2.", "PRESET"),
    ] = "tiny"
    init_from: Annotated[
        Path | None,
        option(
            "Weights that every expert starts from: a safetensors file, or a folder of DiT, PixArt, FLUX or "
            "ours.",
            "PATH",
            parser=typed.existing("first weights"),
        ),
    ] = None
    time_skip: Annotated[
        bool,
        option(
            "Lead patches past narrow experts to their answer, by a learned gate; older peers lack it.",
            None,
            "--time-skip",
        ),
    ] = False
    crew: Annotated[
        int,
        option("How many machines may train one slot together, 2 to 64; 0: one alone.", "N", min=0, max=64),
    ] = 0
    rng_seed: Annotated[int, option("Seed of the first weights and of every batch.", "N", min=0)] = 0
    previews: Annotated[
        list[str] | None,
        option(
            "A prompt of the clips that show how the run comes on; may be repeated, up to 8 times.",
            "TEXT",
            "--preview",
        ),
    ] = None
    private: Annotated[
        bool,
        option(
            "Seal clips, captions, weights and records for all but members: what a studio wants.",
            None,
            "--private",
        ),
    ] = False


@dataclass(frozen=True)
class TrainingFlags:
    """Holds the options of how every slot is trained."""

    batch_clips: Annotated[
        int, option("Clips per optimizer step of an expert.", "N", "--batch", panel=TRAINING, min=1)
    ] = 16
    learning_rate: Annotated[
        float, option("Learning rate of an expert, at most 1.", "RATE", panel=TRAINING)
    ] = 3e-4
    warmup_steps: Annotated[
        int, option("Steps over which the learning rate rises.", "N", panel=TRAINING, min=0)
    ] = 100
    total_steps: Annotated[
        int, option("Steps of a slot; 0: until the owner ends the run.", "N", panel=TRAINING, min=0)
    ] = 0
    decay_steps: Annotated[
        int,
        option("How many of the last steps the learning rate falls over, to 0.", "N", panel=TRAINING, min=0),
    ] = 0
    optimizer: Annotated[
        Optimizer,
        option(
            "What trains the matrices of the networks' blocks: adamw, or muon, which older peers lack.",
            "NAME",
            panel=TRAINING,
        ),
    ] = "adamw"
    ema_decay: Annotated[
        float,
        option("Decay per step of the weights' moving average, below 1.", "SHARE", panel=TRAINING),
    ] = 0.999
    ema_clips: Annotated[
        int,
        option(
            "Clips that this average reaches back over, for expert and router alike; 0: by --ema-decay.",
            "N",
            panel=TRAINING,
            min=0,
        ),
    ] = 0
    ema_profile: Annotated[
        EmaProfile,
        option(
            "exponential, or power: two averages, for export --ema-length; a checkpoint then takes 3 bytes a "
            "parameter more (6 with --full-checkpoints). Older peers lack it.",
            "NAME",
            panel=TRAINING,
        ),
    ] = "exponential"
    caption_dropout: Annotated[
        float,
        option("Share of the clips trained without their caption.", "SHARE", panel=TRAINING, min=0, max=1),
    ] = 0.1
    contrastive: Annotated[
        float,
        option(
            "How far experts keep away from what other captions ask for, such as 0.05; older peers lack it.",
            "SHARE",
            panel=TRAINING,
            min=0,
            max=1,
        ),
    ] = 0.0
    time_shift: Annotated[
        float,
        option(
            "Shift of the denoising times; 0: by the clips' token count.",
            "SHIFT",
            panel=TRAINING,
            min=0,
            max=100,
        ),
    ] = 0.0
    first_frame_rate: Annotated[
        float,
        option(
            "Share of the clips trained with their first frame given, for generate --image.",
            "SHARE",
            panel=TRAINING,
            min=0,
            max=1,
        ),
    ] = 0.0
    ddpm_experts: Annotated[
        list[int] | None,
        option(
            "Number of an expert to train on noise, the DDPM objective; may be repeated.",
            "N",
            "--ddpm-expert",
            panel=TRAINING,
            min=0,
            max=255,
        ),
    ] = None
    router_batch_clips: Annotated[
        int, option("Clips per optimizer step of the router.", "N", "--router-batch", panel=TRAINING, min=1)
    ] = 64
    router_learning_rate: Annotated[
        float, option("Learning rate of the router, at most 1.", "RATE", panel=TRAINING)
    ] = 1e-3
    full_checkpoints: Annotated[
        bool,
        option(
            "Checkpoints of 18 bytes a parameter instead of 8, which older peers know.",
            None,
            "--full-checkpoints",
            panel=TRAINING,
        ),
    ] = False


@dataclass(frozen=True)
class GateFlags:
    """Holds the options of what a checkpoint must pass, and who says so."""

    clips: Annotated[
        int, option("Held-out clips per check.", "N", "--gate-clips", panel=GATE, min=1)
    ] = 64  # fmt: skip
    tolerance: Annotated[
        float,
        option(
            "How far above the best loss, as a share of it, a checkpoint's may be.",
            "SHARE",
            "--gate-tolerance",
            panel=GATE,
            min=0,
            max=10,
        ),
    ] = 0.05
    quorum: Annotated[int, option("Attestations that a tip needs.", "N", panel=GATE, min=1)] = 1
    open_run: Annotated[
        bool,
        option(
            "Let strangers join; only the owner's node and --attestor may then attest.",
            None,
            "--open",
            panel=GATE,
        ),
    ] = False
    attestors: Annotated[
        list[str] | None,
        option("Id of a peer that may attest; may be repeated.", "PEER", "--attestor", panel=GATE),
    ] = None


@dataclass(frozen=True)
class TimingFlags:
    """Holds the options of claims and checkpoints."""

    claim_s: Annotated[
        float, option("How long a claim holds unless it is renewed.", "SECONDS", panel=TIMING, min=2)
    ] = 120.0
    settle_s: Annotated[
        float,
        option("How long a peer waits for others' claims first.", "SECONDS", panel=TIMING, min=0.1),
    ] = 5.0
    margin_s: Annotated[
        float,
        option(
            "How long before its claim's end a lead stops, and how long after it others wait.",
            "SECONDS",
            panel=TIMING,
            min=0.1,
        ),
    ] = 5.0
    checkpoint_s: Annotated[
        float, option("Time from one checkpoint to the next.", "SECONDS", panel=TIMING, min=1)
    ] = 600.0


@dataclass(frozen=True)
class PublishFlags(NodeFlags):
    """Holds the options of the owner's node."""

    threads: Annotated[
        int | None,
        setting("threads", "CPU threads that attest; 0 for torch's own choice.", "N", "1", panel=MACHINE),
    ] = None
    lan: LanOption = None
    preview_minutes: Annotated[
        float | None,
        setting(
            "preview_minutes",
            "Minutes between two sets of preview clips, at least; 0: none are made.",
            "N",
            "30",
            panel=MACHINE,
        ),
    ] = None
    peers: Annotated[
        list[str] | None,
        setting("peers", "A bootstrap node; may be repeated.", "MULTIADDR", panel=LINE, flag="--peer"),
    ] = None
