"""The systemd unit of a node, hardened: it may touch its own folder, its line and, for training, a GPU.

docs/monitoring.md explains each group of lines. The units in bootstrap/ and peers/ are made by this text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

ServedKind = Literal["peer", "bootstrap"]
MEMORY_ABOVE_BYTES = 2 * 10**9  # between what a peer keeps by itself, and the wall behind it
# A peer's last checkpoint is written (a minute at most on a slow disk), told, and attested within
# peer/volunteer.py's LEAVE_ATTEST_S; a bootstrap node has nothing to finish.
STOP_S = {"peer": 180, "bootstrap": 30}
WATCHDOG_S = 300  # an event loop that stands still for so long does not come back by itself
_DESCRIPTIONS = {"peer": "paris-p2p volunteer peer", "bootstrap": "paris-p2p bootstrap node"}
_MANUAL = "https://github.com/paris-p2p/paris-p2p/blob/main/docs/monitoring.md"
_PLAIN_WORD = re.compile(r"[\w@%+=:,./~-]+")

# Works for a user's service, too: these need no namespace of files.
_ALWAYS = (
    "NoNewPrivileges=yes",
    "LockPersonality=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "RestrictNamespaces=yes",
    "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK",
    "SystemCallArchitectures=native",
    "SystemCallFilter=@system-service",
    "SystemCallErrorNumber=EPERM",
)
# These lay the file system out anew; a user's service manager needs PrivateUsers= for them.
_LAID_OUT = (
    "ProtectSystem=strict",
    "PrivateTmp=yes",
    "ProtectKernelModules=yes",
    "ProtectControlGroups=yes",
    "ProtectHostname=yes",
)


@dataclass(frozen=True)
class ServiceUnit:
    """What a unit is made of."""

    kind: ServedKind
    words: tuple[str, ...]  # the program, by its whole path, and what it is told; %-specifiers are expanded
    of_system: bool
    data_dir: str = ""  # of a user's service: the one folder that it may write
    memory_bytes: int = 0  # MemoryMax; 0: none
    uses_gpu: bool = False
    laid_out: bool = True  # no where the kernel gives users no namespaces
    credential: str = ""  # a file with the invite, of a system service
    name: str = ""

    @property
    def called(self) -> str:
        """Returns the unit's name without its ending."""
        return self.name or f"paris-{self.kind}"


def unit_text(unit: ServiceUnit) -> str:
    """Returns the unit as a file."""
    sections = (("Unit", _about(unit)), ("Service", _service(unit)), ("Install", _install(unit)))
    made = (f"[{name}]\n" + "\n".join(lines) for name, lines in sections)
    return (
        f"# Made by `paris service install {unit.kind}`; made anew by the next one.\n\n"
        + "\n\n".join(made)
        + "\n"
    )


def unit_word(word: str) -> str:
    """Returns a word as ExecStart= takes it, in which $ is no variable; %-specifiers are the caller's to
    double.
    """
    return _quoted(word.replace("$", "$$"))


def _quoted(word: str) -> str:
    if word and _PLAIN_WORD.fullmatch(word):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def literal(words: Iterable[str]) -> tuple[str, ...]:
    """Returns words in which % stands for itself."""
    return tuple(word.replace("%", "%%") for word in words)


def _about(unit: ServiceUnit) -> Iterator[str]:
    yield f"Description={_DESCRIPTIONS[unit.kind]}"
    yield f"Documentation={_MANUAL}"
    if unit.of_system:
        yield "Wants=network-online.target"
        yield "After=network-online.target time-sync.target"


def _service(unit: ServiceUnit) -> Iterator[str]:
    yield "# It says when it is ready, what it does, and every few seconds that it lives."
    yield "Type=notify"
    yield "NotifyAccess=main"
    yield f"ExecStart={' '.join(map(unit_word, unit.words))}"
    yield "# Joining may wait for the run's owner; that is no failure."
    yield "TimeoutStartSec=infinity"
    yield f"WatchdogSec={WATCHDOG_S}"
    yield "Restart=on-failure"
    yield f"RestartSec={5 if unit.kind == 'bootstrap' else 30}"
    yield "# 2 is a wrong option, file or invite: starting again cannot mend it."
    yield "RestartPreventExitStatus=2"
    yield "# One SIGTERM to the node, which ends its own processes in order."
    yield "KillMode=mixed"
    yield f"TimeoutStopSec={STOP_S[unit.kind]}"
    yield from _folders(unit)
    yield from _limits(unit)
    yield "# What it may touch"
    yield from _ALWAYS
    yield from _sandbox(unit)


def _folders(unit: ServiceUnit) -> Iterator[str]:
    if not unit.of_system:
        yield f"CacheDirectory={unit.called}"
        yield f"Environment=XDG_CACHE_HOME=%C/{unit.called} TRITON_CACHE_DIR=%C/{unit.called}/triton"
        yield f"Environment=CUDA_CACHE_PATH=%C/{unit.called}/cuda"
        return
    yield "DynamicUser=yes"
    yield f"# /var/lib/{unit.called}: the identity key and the blobs."
    yield f"StateDirectory={unit.called}"
    yield "StateDirectoryMode=0700"
    yield f"WorkingDirectory=%S/{unit.called}"
    yield f"Environment=HOME=%S/{unit.called}"
    if unit.credential:
        yield "# The invite is read from a file that root alone can read."
        yield f"LoadCredential=invite:{unit.credential}"


def _limits(unit: ServiceUnit) -> Iterator[str]:
    if unit.memory_bytes:
        yield f"MemoryMax={unit.memory_bytes}"
    if unit.kind == "peer":
        yield "# Everything else on the machine comes first."
        yield from ("Nice=10", "CPUWeight=20", "IOSchedulingClass=idle")
    yield from ("LimitNOFILE=65536", "LimitCORE=0", "UMask=0077")


def _sandbox(unit: ServiceUnit) -> Iterator[str]:
    if unit.of_system:
        yield "CapabilityBoundingSet="
    if not unit.laid_out:
        return
    yield from _LAID_OUT
    if unit.of_system:
        # A user may touch neither anyway, and some user managers cannot lay these out.
        yield from ("ProtectKernelTunables=yes", "ProtectKernelLogs=yes")
        yield "ProtectHome=yes"
    else:
        yield "PrivateUsers=yes"
        yield "ProtectHome=read-only"
        yield f"ReadWritePaths={_quoted(unit.data_dir)}"  # where $ stands for itself
    if unit.kind == "bootstrap":
        yield "ProtectProc=invisible"
    if not unit.uses_gpu:  # both close all of /dev but a few: a GPU would be gone
        yield from ("PrivateDevices=yes", "ProtectClock=yes")


def _install(unit: ServiceUnit) -> Iterator[str]:
    yield f"WantedBy={'multi-user' if unit.of_system else 'default'}.target"
