"""The networks that look at the clips of an evaluation, with the hashes of their weights."""

from __future__ import annotations

from dataclasses import dataclass

from paris_p2p.device import Device
from paris_p2p.errors import UsageError
from paris_p2p.evaluation.options import EvaluateOptions, check_named
from paris_p2p.features.aesthetic import AestheticHead, load_aesthetic
from paris_p2p.features.image import Features, load_features
from paris_p2p.features.image_text import ClipFeatures


@dataclass(frozen=True)
class ScoringNetworks:
    """All that looks at clips, and LAION's aesthetic head where one was asked for."""

    features: list[Features]
    head: AestheticHead | None = None
    head_name: str = ""

    @property
    def hashes(self) -> dict[str, str]:
        """Returns the sha256 of the weights, by what they are called in the report."""
        found = {network.title: network.sha256 for network in self.features}
        return found | ({self.head_name: self.head.sha256} if self.head is not None else {})


def load_scoring_networks(options: EvaluateOptions, device: Device) -> ScoringNetworks:
    """Returns all that looks at clips; what does not fit together is refused before anything is generated.
    UsageError, BlobError.
    """
    check_named(options)
    pins = {name: options.i3d_sha256 for name in options.features if name.startswith("i3d:")}
    features = [
        load_features(name, sha256=pins.get(name, ""), device=str(device)) for name in options.features
    ]
    if options.aesthetic is None:
        return ScoringNetworks(features)
    head = load_aesthetic(options.aesthetic)
    if not any(fits(head, network) for network in features):
        widths = {network.title: network.width for network in features if isinstance(network, ClipFeatures)}
        given = ", ".join(f"{title} gives {width}" for title, width in widths.items())
        raise UsageError(
            f"the aesthetic head {options.aesthetic} takes {len(head.weight)} features of CLIP ViT-L/14, "
            f"and {given or 'no --features clip: is given'}"
        )
    return ScoringNetworks(features, head, f"{options.aesthetic.stem} {head.sha256[:8]}")


def fits(head: AestheticHead, network: Features) -> bool:
    """Returns whether the aesthetic head takes this network's features."""
    return isinstance(network, ClipFeatures) and network.width == len(head.weight)
