"""Says what a clip's size costs: its tokens, and which sizes near it are cheap."""

from __future__ import annotations

from collections.abc import Iterator

from paris_p2p.codec.pca import MAX_PATCH_PIXELS, default_patch
from paris_p2p.model.presets import count_tokens, expert_config
from paris_p2p.spec import ClipShape, LatentShape, TextShape

DEAR = 1.25  # a size is dear at so many times the tokens that its area asks for
_PATCHED = ("pca", "train", "train:video")  # codecs whose patches must divide the sides


def expert_tokens(latent: LatentShape) -> int:
    """Returns the patches of one clip in an expert; they are the same for all presets."""
    return count_tokens(expert_config("nano", latent, TextShape(tokens=1, dim=1, pooled_dim=1)), latent.shape)


def size_advice(codec: str, clip: ClipShape) -> str:
    """Returns a sentence on a size that costs more tokens than its area asks for; empty for a cheap one."""
    if codec not in _PATCHED:
        return ""
    tokens, side = _tokens(clip.frames, clip.height, clip.width)
    near = sorted({*_near(clip.height, clip.width)}, key=lambda size: _change(size, clip))
    least = sorted(near, key=lambda size: _tokens(clip.frames, *size)[0])
    costs = {size: _tokens(clip.frames, *size)[0] for size in (*near[:1], *least[:1])}
    asked = clip.height * clip.width
    if not costs or tokens <= DEAR * min(cost * asked / (h * w) for (h, w), cost in costs.items()):
        return ""
    cheap = ", ".join(f"--height {h} --width {w} ({cost:,} tokens)" for (h, w), cost in costs.items())
    times = tokens / costs[near[0]]
    return (
        f"{clip.height} x {clip.width} pixels are cut into patches of {side}: {tokens:,} tokens a clip, "
        f"{times:.1f} times the tokens, and so the work of training, of the nearest cheap size; "
        f"cheap are {cheap}"
    )


def _tokens(frames: int, height: int, width: int) -> tuple[int, int]:
    """Returns (tokens of a clip, side of a patch in pixels) with the codecs' own patches."""
    side, channels = default_patch(height, width)
    latent = LatentShape(channels=channels, frames=frames, height=height // side, width=width // side)
    return expert_tokens(latent), side


def _near(height: int, width: int) -> Iterator[tuple[int, int]]:
    """Yields sizes around this one whose sides hold an even number of whole patches."""
    for step in (8, 16, MAX_PATCH_PIXELS):
        for h in {height // step * step, -(-height // step) * step} - {0}:
            for w in {width // step * step, -(-width // step) * step} - {0}:
                if 2 * default_patch(h, w)[0] == step:
                    yield h, w


def _change(size: tuple[int, int], clip: ClipShape) -> float:
    ratios = size[0] / clip.height, size[1] / clip.width
    return sum(max(ratio, 1 / ratio) for ratio in ratios)
