"""paris-p2p: a peer-to-peer network that trains and runs decentralized video diffusion models."""

from typing import TYPE_CHECKING, Any

from paris_p2p.offered import offer_pipeline

if TYPE_CHECKING:
    from paris_p2p.generation.pipeline import ParisPipeline

__version__ = "0.2.0"
__all__ = ["ParisPipeline", "__version__"]


def __getattr__(name: str) -> Any:
    """Imports ParisPipeline when it is asked for: it brings torch, and importing paris_p2p stays light."""
    if name == "ParisPipeline":
        from paris_p2p.generation.pipeline import ParisPipeline

        return ParisPipeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


offer_pipeline()
