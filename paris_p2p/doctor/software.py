"""Python and the packages that this program's wheel asks for, and whether those that are here are right."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, metadata, requires
from importlib.metadata import version as version_here

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from paris_p2p.doctor.finding import Finding

PACKAGE = "paris-p2p"
_NAMED = 6  # packages in one line


@dataclass(frozen=True)
class SoftwareFacts:
    """What is installed; a package's version is "" where it is not here."""

    python: str
    wants_python: str
    packages: tuple[tuple[str, str, str], ...]  # name, version here, what the wheel asks for
    system: str = "Linux"
    processor: str = "x86_64"
    version: str = ""  # of this program


def read_software(version_of: Callable[[str], str] = version_here) -> SoftwareFacts:
    """Returns the versions of Python and of each package that the wheel declares, but for its extras."""
    return SoftwareFacts(
        python=platform.python_version(),
        wants_python=metadata(PACKAGE)["Requires-Python"],
        packages=tuple(_packages(requires(PACKAGE) or (), version_of)),
        system="Linux" if sys.platform == "linux" else platform.system(),
        processor=platform.machine(),
        version=installed_version(),
    )


@lru_cache(maxsize=1)
def installed_version() -> str:
    """Returns the version of this program that is installed."""
    return version_here(PACKAGE)


def judge_software(facts: SoftwareFacts) -> list[Finding]:
    """Returns whether Python, the packages and the system are those that this program runs on."""
    return [_judge_python(facts), _judge_packages(facts.packages), _judge_system(facts)]


def _judge_python(facts: SoftwareFacts) -> Finding:
    right = Version(facts.python) in SpecifierSet(facts.wants_python, prereleases=True)
    return Finding(
        check="python",
        verdict="good" if right else "cannot",
        found=f"Python {facts.python}, paris-p2p {facts.version}",
        wanted=f"Python {facts.wants_python}",
        mend="" if right else "install a newer Python, and paris-p2p in a virtual environment of it",
    )


def _judge_packages(packages: Sequence[tuple[str, str, str]]) -> Finding:
    missing = [name for name, here, _ in packages if not here]
    wrong = [
        (name, here, wanted)
        for name, here, wanted in packages
        if here and Version(here) not in SpecifierSet(wanted, prereleases=True)
    ]
    counts = {"packages": float(len(packages)), "missing": float(len(missing)), "wrong": float(len(wrong))}
    if not missing and not wrong:
        return Finding(
            check="packages",
            verdict="good",
            found=f"all {len(packages)} packages as the wheel asks for them",
            numbers=counts,
        )
    told = [f"{name} is missing" for name in missing]
    told += [f"{name} {here} where {wanted} is wanted" for name, here, wanted in wrong]
    asked = [*missing, *(f"'{name}{wanted}'" for name, _, wanted in wrong)]
    return Finding(
        check="packages",
        verdict="cannot" if missing else "poor",
        found=_some(told, "; "),
        wanted="the versions that the wheel declares",
        mend=f"{sys.executable} -m pip install {_some(asked, ' ')}",
        numbers=counts,
    )


def _judge_system(facts: SoftwareFacts) -> Finding:
    right = facts.system == "Linux" and facts.processor in ("x86_64", "AMD64")
    return Finding(
        check="system",
        verdict="good" if right else "cannot",
        found=f"{facts.system} on {facts.processor}",
        wanted="Linux on x86-64, for which p2pd is built",
        mend="" if right else "use another machine, or on Windows WSL 2 (docs/platforms.md)",
    )


def _packages(asked: Sequence[str], version_of: Callable[[str], str]) -> Iterator[tuple[str, str, str]]:
    for text in asked:
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            here = version_of(wanted.name)
        except PackageNotFoundError:
            here = ""
        yield wanted.name, here, str(wanted.specifier)


def _some(words: Sequence[str], between: str) -> str:
    more = len(words) - _NAMED
    return between.join(words[:_NAMED]) + (f" and {more} more" if more > 0 else "")
