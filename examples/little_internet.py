"""A little internet of network namespaces: machines with public addresses, and homes behind routers that
masquerade.

Every home has the same private range, as homes do. The routers take nothing in from outside, and give every
connection a random port, so that no hole can be punched either: a machine at home can dial, and cannot be
dialled.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from examples.demo.processes import BIN, Node

# addresses that libp2p takes for public; the documentation's own ranges it takes for none
PUBLIC = "11.22.33.{}"
MASK = "/24"
ROUTER, HOME, OFFICE = "192.168.1.1", "192.168.1.2", "192.168.1.{}"


@dataclass(frozen=True)
class Machine:
    """A namespace that commands run in; `address` is what the others see."""

    space: str
    address: str

    @property
    def prefix(self) -> tuple[str, ...]:
        return "ip", "netns", "exec", self.space

    def run(self, *command: str) -> str:
        """A command's output; CalledProcessError."""
        return _run(*self.prefix, *command)


@dataclass(frozen=True)
class Home(Machine):
    """A machine behind a router of its own."""

    router: Machine

    def plug(self, state: str) -> None:
        """The router's cable to the internet: "down" pulls it, "up" puts it back in."""
        _run("ip", "-n", self.router.space, "link", "set", "wan", state)


@dataclass(frozen=True)
class Office:
    """Several machines on one network, behind one router."""

    router: Machine
    machines: tuple[Machine, ...]

    def plug(self, number: int, state: str) -> None:
        """Pulls one machine's cable out of the router ("down"), or puts it back in ("up")."""
        _run("ip", "-n", self.machines[number].space, "link", "set", "lan", state)
        if state == "up":  # the kernel forgets routes of a link that was down
            _run("ip", "-n", self.machines[number].space, "route", "replace", "default", "via", ROUTER)


class LittleInternet:
    """Made by `little_internet`."""

    def __init__(self, name: str):
        self._name, self._spaces, self._numbers = name, list[str](), count(1)

    def open(self) -> None:
        self._middle = self._space("middle")
        _run("ip", "-n", self._middle, "link", "add", "bridge", "type", "bridge")
        _run("ip", "-n", self._middle, "link", "set", "bridge", "up")

    def add_machine(self, name: str) -> Machine:
        """A machine with a public address, which anybody can dial."""
        space, number = self._space(name), next(self._numbers)
        machine = Machine(space, PUBLIC.format(number))
        _run(
            "ip",
            "-n",
            space,
            "link",
            "add",
            "wan",
            "type",
            "veth",
            "peer",
            "name",
            f"to-{number}",
            "netns",
            self._middle,
        )
        _run("ip", "-n", self._middle, "link", "set", f"to-{number}", "master", "bridge", "up")
        _run("ip", "-n", space, "address", "add", machine.address + MASK, "dev", "wan")
        _run("ip", "-n", space, "link", "set", "wan", "up")
        return machine

    def add_home(self, name: str) -> Home:
        """A machine behind NAT."""
        router, space = self.add_machine(f"{name}-router"), self._space(name)
        self._cable(space, HOME, router.space, "lan")
        _run("ip", "-n", router.space, "address", "add", ROUTER + MASK, "dev", "lan")
        _masquerade(router)
        return Home(space, router.address, router)

    def add_office(self, name: str, machines: int) -> Office:
        """Machines that reach each other directly, and the internet through one router."""
        router = self.add_machine(f"{name}-router")
        _run("ip", "-n", router.space, "link", "add", "lan", "type", "bridge")
        _run("ip", "-n", router.space, "address", "add", ROUTER + MASK, "dev", "lan")
        _run("ip", "-n", router.space, "link", "set", "lan", "up")
        inside = []
        for number in range(machines):
            space, address = self._space(f"{name}-{number}"), OFFICE.format(10 + number)
            self._cable(space, address, router.space, f"desk-{number}")
            _run("ip", "-n", router.space, "link", "set", f"desk-{number}", "master", "lan")
            inside.append(Machine(space, address))
        _masquerade(router)
        return Office(router, tuple(inside))

    def _cable(self, space: str, address: str, router: str, port: str) -> None:
        """Joins `lan` of a machine to a port of its router."""
        ends = ("lan", "type", "veth", "peer", "name", port)
        _run("ip", "-n", space, "link", "add", *ends, "netns", router)
        _run("ip", "-n", space, "address", "add", address + MASK, "dev", "lan")
        for where, end in ((space, "lan"), (router, port)):
            _run("ip", "-n", where, "link", "set", end, "up")
        _run("ip", "-n", space, "route", "add", "default", "via", ROUTER)

    def close(self) -> None:
        for space in self._spaces:
            subprocess.run(["ip", "netns", "del", space], capture_output=True, check=False)

    def _space(self, name: str) -> str:
        space = f"{self._name}-{name}"
        _run("ip", "netns", "add", space)
        self._spaces.append(space)
        _run("ip", "-n", space, "link", "set", "lo", "up")
        return space


@contextmanager
def little_internet() -> Iterator[LittleInternet]:
    """Namespaces that are gone afterwards, whatever happens."""
    net = LittleInternet(f"paris-{os.getpid()}")
    try:
        net.open()
        yield net
    finally:
        net.close()


def why_not() -> str:
    """Why this machine can make no such internet; empty when it can."""
    missing = [tool for tool in ("ip", "iptables", "sysctl") if shutil.which(tool) is None]
    if missing:
        return f"no {', no '.join(missing)} here: packages iproute2, iptables and procps have them"
    if os.geteuid() != 0:
        return "network namespaces need root"
    try:
        with little_internet() as net:
            net.add_home("try")
    except subprocess.CalledProcessError as error:
        return f"no namespaces with NAT here: `{' '.join(error.cmd)}` said {error.stderr.strip()[:200]}"
    return ""


@dataclass
class NodeAt(Node):
    """One of our commands on a machine of the little internet, where its control API listens on that
    machine's own loopback.
    """

    prefix: tuple[str, ...] = ()

    @classmethod
    def started(
        cls, machine: Machine, name: str, root: Path, *command: str, data_dir: Path | None = None
    ) -> NodeAt:
        """In a data directory of its own, unless the command knows better."""
        program, *arguments = command
        own = [] if data_dir else ["--data-dir", str(root / name)]
        line = [*machine.prefix, str(BIN / program), *arguments, *own]
        node = cls(name, line, data_dir or root / name, root / "logs" / f"{name}.log", prefix=machine.prefix)
        node.start()
        return node

    def status(self) -> dict[str, Any] | None:
        """What `paris-peer status --json` says there."""
        done = subprocess.run(
            self._command("status", "--json"),
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode:
            return None
        self.last_status = json.loads(done.stdout)
        return self.last_status

    def ask(self, action: str) -> str:
        return _run(*self._command(action))

    def _command(self, *verb: str) -> list[str]:
        return [*self.prefix, str(BIN / "paris-peer"), *verb, "--data-dir", str(self.data_dir)]


def _masquerade(router: Machine) -> None:
    """Has a router pass on what comes from inside, and nothing that comes from outside unasked."""
    established = ("-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED", "-j", "ACCEPT")
    router.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    outside = ("-o", "wan", "-j", "MASQUERADE", "--random-fully")
    router.run("iptables", "-t", "nat", "-A", "POSTROUTING", *outside)
    router.run("iptables", "-A", "FORWARD", "-i", "wan", *established)
    for chain in ("FORWARD", "INPUT"):
        router.run("iptables", "-A", chain, "-i", "wan", "-j", "DROP")


def _run(*command: str) -> str:
    return subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=True
    ).stdout
