"""What does not change while a node runs: what the run is for, and what it asks of its machines."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from paris_p2p import __version__
from paris_p2p.node.run_node import RunNode


class About(BaseModel):
    """Describes a run and this node, as the signed RunSpec and the node's settings have them."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["peer"] = "peer"
    version: str
    run: str
    name: str
    owner: str
    purpose: str
    data_licence: str
    weights_licence: str
    created_at: float  # Unix time
    experts: int
    expert: str  # preset
    router: str
    frames: int
    height: int
    width: int
    fps: float
    total_steps: int  # 0: no end is set
    checkpoint_s: float
    private: bool
    data_dir: str


def about_run(node: RunNode) -> About:
    """Returns it of a run with what notices changed so far."""
    spec = node.spec
    return About(
        version=__version__,
        run=node.run,
        name=spec.name,
        owner=node.owner,
        purpose=spec.purpose,
        data_licence=spec.data_licence,
        weights_licence=spec.weights_licence,
        created_at=spec.created_at,
        experts=spec.experts,
        expert=spec.expert.preset,
        router=spec.router.preset,
        frames=spec.clip.frames,
        height=spec.clip.height,
        width=spec.clip.width,
        fps=spec.clip.fps,
        total_steps=spec.training.total_steps,
        checkpoint_s=spec.timing.checkpoint_s,
        private=spec.private,
        data_dir=str(node.host.settings.data_dir),
    )


class AboutBootstrap(BaseModel):
    """Describes a bootstrap node."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["bootstrap"] = "bootstrap"
    version: str = __version__
    read_only: bool = False
