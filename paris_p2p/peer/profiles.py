"""Hardware profiles: what a class of machine can train and may use, as TOML files in peers/profiles
(`--profile gpu-12gb`).
"""

from __future__ import annotations

import sysconfig
import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from paris_p2p.errors import PresetError, UsageError
from paris_p2p.spec import parse_bytes

REFERENCE_TOKENS = 1024  # a clip of 4 x 32 x 32 latents in 1 x 2 x 2 patches: about 16 frames of 256 x 256


def _check_size(text: str) -> str:
    try:
        parse_bytes(text)
    except UsageError as error:
        raise ValueError(str(error)) from error
    return text


SizeText = Annotated[str, AfterValidator(_check_size)]


class Profile(BaseModel):
    """One class of machine; sizes and rates are written as on the command line (`6GB`, `5MB/s`), "0" for
    no limit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: Annotated[str, Field(min_length=1, max_length=200)]
    # of the device that trains: the GPU's own, or the machine's
    memory_gb: Annotated[float, Field(gt=0, le=10_000)]
    # preset -> micro-batch in clips of REFERENCE_TOKENS
    presets: dict[str, Annotated[int, Field(ge=1, le=65536)]]
    device: str
    threads: Annotated[int, Field(ge=0, le=1024)]
    max_memory: SizeText  # main memory of all our processes
    max_vram: SizeText = "0"  # of the GPU that trains
    max_disk: SizeText
    upload_limit: SizeText
    download_limit: SizeText

    def settings_fields(self) -> dict[str, Any]:
        """The fields of PeerSettings that this profile decides; the micro-batch waits for the run's
        preset.
        """
        return {
            "device": self.device,
            "threads": self.threads,
            "max_memory_bytes": parse_bytes(self.max_memory),
            "max_vram_bytes": parse_bytes(self.max_vram),
            "max_disk_bytes": parse_bytes(self.max_disk),
            "upload_limit_bps": float(parse_bytes(self.upload_limit)),
            "download_limit_bps": float(parse_bytes(self.download_limit)),
        }

    def micro_batch_clips(self, preset: str, tokens: int = REFERENCE_TOKENS) -> int:
        """Clips per forward pass of a run of `preset` with so many tokens a clip; PresetError when it does
        not fit.
        """
        if preset not in self.presets:
            raise PresetError(
                f"preset {preset!r} does not fit {self.description} ({self.memory_gb:g} GB); what fits: "
                f"{', '.join(self.presets)}"
            )
        return max(1, self.presets[preset] * REFERENCE_TOKENS // max(tokens, 1))


def load_profile(name_or_path: str) -> Profile:
    """A profile by its name in peers/profiles, or from a TOML file; PresetError lists the names there are."""
    known = known_profiles()
    path = known.get(name_or_path)
    if path is None:
        path = Path(name_or_path).expanduser()
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
    """Name -> file, smallest memory first."""
    files = {path.stem: path for folder in _folders() for path in folder.glob("*.toml")}
    return dict(
        sorted(files.items(), key=lambda item: (not item[0].startswith("cpu"), len(item[0]), item[0]))
    )


def _folders() -> tuple[Path, ...]:
    """Where an installed wheel put them; then a checkout's own peers/profiles, which win."""
    return Path(sysconfig.get_path("data")) / "share" / "paris-p2p" / "profiles", Path(__file__).parents[
        2
    ] / "peers" / "profiles"
