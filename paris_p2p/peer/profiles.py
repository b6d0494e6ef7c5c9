"""Hardware profiles (`--profile gpu-12gb`): what a class of machine can train and may use, as TOML files in
peers/profiles.
"""

from __future__ import annotations

import sysconfig
import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ByteSize, ConfigDict, Field, ValidationError

from paris_p2p.byte_size import Bytes
from paris_p2p.disk import named_path
from paris_p2p.errors import PresetError, UsageError

REFERENCE_TOKENS = 1024  # a clip of 4 x 32 x 32 latents in 1 x 2 x 2 patches: about 16 frames of 256 x 256


class Profile(BaseModel):
    """Describes one class of machine; sizes and rates are written as on the command line, 0 for no limit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: Annotated[str, Field(min_length=1, max_length=200)]
    # of the device that trains: the GPU's own, or the machine's
    memory_gb: Annotated[float, Field(gt=0, le=10_000)]
    # preset -> micro-batch in clips of REFERENCE_TOKENS
    presets: dict[str, Annotated[int, Field(ge=1, le=65536)]]
    device: str
    threads: Annotated[int, Field(ge=0, le=1024)]
    max_memory: Bytes  # main memory of all our processes
    max_vram: Bytes = ByteSize(0)  # of the GPU that trains
    max_disk: Bytes
    upload_limit: Bytes
    download_limit: Bytes

    def options(self) -> dict[str, Any]:
        """Returns the options that this profile decides; the micro-batch waits for the run's preset."""
        return self.model_dump(exclude={"description", "memory_gb", "presets"})

    def micro_batch_clips(self, preset: str, tokens: int = REFERENCE_TOKENS) -> int:
        """Returns the clips per forward pass of a run of `preset`; PresetError when it does not fit."""
        if preset not in self.presets:
            raise PresetError(
                f"preset {preset!r} does not fit {self.description} ({self.memory_gb:g} GB); what fits: "
                f"{', '.join(self.presets)}"
            )
        return max(1, self.presets[preset] * REFERENCE_TOKENS // max(tokens, 1))


def load_profile(name_or_path: str) -> Profile:
    """Returns a profile by its name in peers/profiles, or from a TOML file; PresetError lists the names."""
    known = known_profiles()
    path = known.get(name_or_path)
    if path is None:
        path = named_path(name_or_path)
        if path.suffix != ".toml" or not path.is_file():
            raise PresetError(
                f"no profile {name_or_path[:200]!r}; there are {', '.join(known) or 'none'}, "
                "or give the path of a .toml file"
            )
    try:
        return Profile.model_validate(tomllib.loads(path.read_text()))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"profile {path} is not valid TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"profile {path}: {where!r} is wrong: {first['msg']}") from error


def known_profiles() -> dict[str, Path]:
    """Returns the files of all profiles by name, smallest memory first."""
    files = {path.stem: path for folder in _folders() for path in folder.glob("*.toml")}
    return dict(
        sorted(files.items(), key=lambda item: (not item[0].startswith("cpu"), len(item[0]), item[0]))
    )


def _folders() -> tuple[Path, ...]:
    """Returns where an installed wheel put them, then a checkout's own peers/profiles, which win."""
    installed = Path(sysconfig.get_path("data")) / "share" / "paris-p2p" / "profiles"
    return installed, Path(__file__).parents[2] / "peers" / "profiles"
