"""Holds the set of a stage: all that its arms train and are judged on, in a folder that can be carried away.

`set.json` says what it is and how it was made, and pins the other files: `latents.safetensors`,
`text.safetensors`, `real.safetensors` and the codec's folder `codec/`.
Legend: N clips, C T H W latents, L text tokens, D token width, P pooled width, M captions, A attributes, F
features. An image is a clip of one frame.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import reduce
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from paris_p2p.codec.pca import PcaCodec, fit_pca
from paris_p2p.codec.video import Codec, load_codec
from paris_p2p.disk import write_atomic
from paris_p2p.errors import DataError
from paris_p2p.spec import ClipShape, LatentShape, TextShape

SET_FILE, LATENTS, MORE, TEXT, REAL, CODEC = (
    "set.json",
    "latents.safetensors",
    "latents-{}.safetensors",
    "text.safetensors",
    "real.safetensors",
    "codec",
)
TRAIN, VALIDATION, TEST = 0, 1, 2  # of `split`
UNSAID = -1  # an attribute that the caption does not mention
MAKE_IT = "make it with `python -m bench.when_experts_win make`, or carry one here and name it with --sets"
INT8_STEPS = 127
MOST_BYTES = 45 << 20  # of latents in one file; more are stored in several
_COLUMNS = ("cluster", "caption", "source", "split", "attributes", "world")
_WORDS = ("tokens", "mask", "pooled")


class About(BaseModel):
    """Says what a set is and how it was made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    clip: ClipShape
    latent: LatentShape
    text: TextShape
    clusters: int
    attributes: dict[str, list[str]]  # name -> its values, in the order of the numbers
    worlds: list[str]
    codec: str  # as load_codec takes it: "pca" or "diffusers:codec"
    made: dict[str, Any]  # seed, counts, commit, seconds, decibels of the codec: whatever made it
    sha256: dict[str, str] = {}  # file -> hash; `save` fills it in


@dataclass(frozen=True)
class ProductSet:
    """Holds a stage's clips as networks take them, what is known of each, and features of real ones.

    `real` has arrays by name: `raw/<network>`, `codec/<network>` (test clips through the codec),
    `probe/<network>` (train clips through the codec, for probes of attributes), `floor/<network>` (raw
    train clips that are no probe's), each [rows F], and `rows/test` (of raw and codec), `rows/probe`,
    `rows/floor`: which clips of the set these are.
    """

    about: About
    latents: Tensor  # [N C T H W] float16
    cluster: Tensor  # [N] int16, as the product found them
    caption: Tensor  # [N] int32, a row of the text's
    source: Tensor  # [N] int32, the video or background it comes from
    split: Tensor  # [N] uint8: TRAIN, VALIDATION or TEST
    attributes: Tensor  # [N A] int16; UNSAID where the caption does not mention it
    world: Tensor  # [N] int16, the true kind
    tokens: Tensor  # [M L D] float16
    mask: Tensor  # [M L] bool, True where there is text
    pooled: Tensor  # [M P] float16
    real: dict[str, NDArray[Any]] = field(default_factory=dict)
    folder: Path | None = None  # that it was read from

    def rows(self, split: int) -> Tensor:
        """Returns the rows of a split, in order, and so kind by kind: [n]."""
        return (self.split == split).nonzero().flatten()

    def codec(self, device: str = "cpu") -> Codec:
        """Loads the codec of the set's folder; DataError for a set that was not read from one."""
        if self.folder is None:
            raise DataError("this set was never saved, so that its codec is in no folder")
        return load_codec(self.about.codec, self.folder / CODEC, device=device)

    @property
    def networks(self) -> list[str]:
        """Returns the names of the feature networks that looked at the real clips."""
        return sorted(name.partition("/")[2] for name in self.real if name.startswith("raw/"))


def mixed(count: int) -> NDArray[np.int64]:
    """Returns a random order of so many clips, always the same one: a set has them kind by kind, and what
    takes the first few of them would see few kinds.
    """
    order: NDArray[np.int64] = np.random.default_rng(count).permutation(count)
    return order


def save(made: ProductSet, folder: Path, int8: bool = False) -> About:
    """Writes a set, `set.json` last; the codec must lie in `folder/codec` already.

    With `int8` latents are rounded to 255 levels a channel, of which the largest is that channel's furthest
    value: what is read back is then the data, for every arm.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stored, scale = made.latents.half(), torch.ones(made.latents.shape[1])
    if int8:
        scale = made.latents.float().abs().amax((0, 2, 3, 4)).clamp(min=1e-6) / INT8_STEPS  # [C]
        stored = (made.latents.float() / _by_channel(scale)).round().to(torch.int8)
    for stale in folder.glob(MORE.format("*")):
        stale.unlink()
    rows = max(1, MOST_BYTES // (stored[0].numel() * stored.element_size()))
    first, *more = torch.split(stored, rows)
    columns = {name: getattr(made, name).contiguous() for name in _COLUMNS}
    save_file({"latents": first.contiguous(), "scale": scale, **columns}, folder / LATENTS)
    for number, part in enumerate(more, 2):
        save_file({"latents": part.contiguous()}, folder / MORE.format(number))
    save_file(
        {
            "tokens": made.tokens.half(),
            "mask": made.mask.to(torch.uint8),
            "pooled": made.pooled.half(),
        },
        folder / TEXT,
    )
    save_file(
        {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in made.real.items()},
        folder / REAL,
    )
    about = made.about.model_copy(update={"sha256": {name: _hash(folder / name) for name in _files(folder)}})
    write_atomic(folder / SET_FILE, about.model_dump_json(indent=1) + "\n")
    return about


def read_about(folder: Path) -> About:
    """Reads what a set is; DataError when there is none."""
    try:
        return About.model_validate_json((folder / SET_FILE).read_bytes())
    except (OSError, ValidationError) as error:
        raise DataError(f"{folder} holds no set ({str(error)[:160]}); {MAKE_IT}") from error


def load(folder: Path, check: bool = True) -> ProductSet:
    """Reads a set; DataError when a file is missing or, with `check`, is not the one that was made."""
    about = read_about(folder)
    try:
        if check and (found := {name: _hash(folder / name) for name in _files(folder)}) != about.sha256:
            changed = sorted(name for name in found if found[name] != about.sha256.get(name))
            raise DataError(f"{folder} was changed since it was made: {', '.join(changed)}; make it again")
        clips, words = load_file(folder / LATENTS), load_file(folder / TEXT)
        real = {name: values.numpy() for name, values in load_file(folder / REAL).items()}
    except (OSError, SafetensorError) as error:
        raise DataError(f"{folder} holds no whole set ({str(error)[:160]}); {MAKE_IT}") from error
    scale = clips["scale"]
    latents = torch.cat([clips["latents"], *(load_file(path)["latents"] for path in _more(folder))])
    if latents.dtype == torch.int8:  # a part at a time: as floats all are four times as large
        latents = torch.cat([(part * _by_channel(scale)).half() for part in latents.split(4096)])
    return ProductSet(
        about=about,
        latents=latents,
        **{name: clips[name] for name in _COLUMNS},
        tokens=words["tokens"],
        mask=words["mask"].bool(),
        pooled=words["pooled"],
        real=real,
        folder=folder,
    )


def tiny(folder: Path, frames: int = 1, clusters: int = 3, count: int = 240) -> ProductSet:
    """Makes and saves a set for tests: coloured squares whose place and brightness captions tell.

    Its clusters are the squares' colours, which no caption names. Features of real clips are 12 of their
    pixels' averages, under the name `tiny`.
    """
    rng = torch.Generator().manual_seed(0)
    world = torch.arange(count) % clusters
    place, light = (torch.randint(2, (count,), generator=rng) for _ in range(2))
    pixels = _squares(world, place, light, frames, rng)  # [N T 16 16 3] uint8
    codec = fit_pca([pixels], 4, 4)
    codec.save(folder / CODEC)
    split = torch.arange(count) % 4 - 1  # a half to train on
    about = About(
        stage="tiny",
        clip=ClipShape(frames=frames, height=16, width=16, fps=8.0),
        latent=LatentShape(channels=4, frames=frames, height=4, width=4),
        text=TextShape(tokens=3, dim=6, pooled_dim=6),
        clusters=clusters,
        attributes={"place": ["left", "right"], "light": ["dark", "bright"]},
        worlds=[f"colour {k}" for k in range(clusters)],
        codec="pca",
        made={"seed": 0},
    )
    said = torch.stack([place, light], 1)
    made = ProductSet(
        about=about,
        latents=codec.encode(pixels).half(),
        cluster=world.short(),
        caption=(2 * place + light).int(),
        source=torch.arange(count).int() // 2,
        split=split.clamp(min=TRAIN).to(torch.uint8),
        attributes=said.short(),
        world=world.short(),
        tokens=torch.randn(4, 3, 6, generator=rng).half(),
        mask=torch.tensor([[True, True, False]] * 4),
        pooled=torch.randn(4, 6, generator=rng).half(),
    )
    made.real.update(_tiny_real(made, pixels, codec))
    save(made, folder)
    return load(folder)


def tiny_features(pixels: Tensor) -> NDArray[np.float32]:
    """Returns averages of the four quarters of clips, uint8 [B T H W 3] -> [B 12]."""
    quarters = reduce(pixels.float(), "b t (a h) (e w) c -> b (a e c)", "mean", a=2, e=2)
    looked: NDArray[np.float32] = (quarters / 255).numpy()
    return looked


def _squares(world: Tensor, place: Tensor, light: Tensor, frames: int, rng: torch.Generator) -> Tensor:
    """Draws a noisy square of a colour in either half of each picture; it is still."""
    pixels = torch.randint(0, 40, (len(world), frames, 16, 16, 3), generator=rng)
    for row, (colour, half, bright) in enumerate(
        zip(world.tolist(), place.tolist(), light.tolist(), strict=True)
    ):
        pixels[row, :, 4:12, 8 * half : 8 * half + 8, colour % 3] += 90 + 120 * bright
    return pixels.clamp(max=255).to(torch.uint8)


def _tiny_real(made: ProductSet, pixels: Tensor, codec: PcaCodec) -> dict[str, NDArray[Any]]:
    train = made.rows(TRAIN)
    rows = {"test": made.rows(TEST), "probe": train[::2], "floor": train[1::2]}
    coded = codec.decode(made.latents.float())
    return {
        "raw/tiny": tiny_features(pixels[rows["test"]]),
        "codec/tiny": tiny_features(coded[rows["test"]]),
        "probe/tiny": tiny_features(coded[rows["probe"]]),
        "floor/tiny": tiny_features(pixels[rows["floor"]]),
        **{f"rows/{name}": which.int().numpy() for name, which in rows.items()},
    }


def _by_channel(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _files(folder: Path) -> list[str]:
    """Returns the files that a set is pinned by, as paths inside its folder."""
    codec = sorted(path for path in (folder / CODEC).rglob("*") if path.is_file())
    more = [path.name for path in _more(folder)]
    return [LATENTS, *more, TEXT, REAL, *(path.relative_to(folder).as_posix() for path in codec)]


def _more(folder: Path) -> list[Path]:
    """Returns the files with the latents that did not fit the first, in order."""
    return sorted(folder.glob(MORE.format("*")))


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
