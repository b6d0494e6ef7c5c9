"""What peers say of a machine's line, and what follows: NAT, port, relay, IPv6, clock and rates."""

from __future__ import annotations

from typing import Any

import pytest

from paris_p2p.doctor.finding import Finding, Verdict
from paris_p2p.doctor.line_reach import Nat, ReachFacts, SeenAt, judge_reach, mean_rate, nat_of

OWN = frozenset({"192.168.1.5", "127.0.0.1"})


def seen(*where: tuple[str, int]) -> tuple[SeenAt, ...]:
    return tuple(SeenAt(peer=f"peer-{n}", ip=ip, port=port) for n, (ip, port) in enumerate(where))


def facts(**more: Any) -> ReachFacts:
    good: dict[str, Any] = {
        "ports": {"tcp": 31337, "udp": 31337},
        "sightings": seen(("8.8.8.8", 31337), ("8.8.8.8", 31337)),
        "own_ips": OWN,
        "dialled": {"tcp": (True, True), "udp": (True, True)},
        "dialled_globally": True,
        "direct": 2,
        "clock_offsets_s": (0.1, 0.2),
        "up_bytes_per_s": 2e6,
        "down_bytes_per_s": 9e6,
    }
    return ReachFacts(**{**good, **more})


def bad(reach: ReachFacts) -> dict[str, Verdict]:
    return {one.check: one.verdict for one in judge_reach(reach) if one.verdict in ("poor", "cannot")}


def of(reach: ReachFacts, check: str) -> Finding:
    (found,) = (one for one in judge_reach(reach) if one.check == check)
    return found


@pytest.mark.parametrize(
    ("sightings", "nat"),
    [
        ((), "unknown"),
        (seen(("192.168.1.5", 31337)), "none"),
        (seen(("8.8.8.8", 31337)), "unknown"),  # one alone cannot tell
        (seen(("8.8.8.8", 31337), ("8.8.8.8", 31337)), "cone"),
        (seen(("8.8.8.8", 40001), ("8.8.8.8", 40002)), "symmetric"),
        (seen(("8.8.8.8", 31337), ("192.168.1.5", 31337)), "unknown"),  # one of them is a neighbour
    ],
)
def test_the_kind_of_nat_follows_from_how_several_see_one_port(
    sightings: tuple[SeenAt, ...], nat: Nat
) -> None:
    assert nat_of(facts(sightings=sightings)) == nat


def test_over_quic_another_port_is_no_other_nat() -> None:
    udp = SeenAt(peer="peer-9", ip="8.8.8.8", port=5, protocol="udp")
    assert nat_of(facts(sightings=(*seen(("8.8.8.8", 1), ("8.8.8.8", 1)), udp))) == "cone"


def test_a_machine_that_all_reach_is_well() -> None:
    assert bad(facts()) == {}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"dialled": {"tcp": (False, False), "udp": (False,)}}, {"port": "poor"}),
        ({"dialled": {"tcp": (False, True), "udp": (False,)}}, {}),
        ({"dialled": {"tcp": (False,)}, "reserved_relays": 1}, {}),
        ({"dialled": {}, "refusals": ("they run an older version",)}, {}),
        (
            {"sightings": seen(("8.8.8.8", 1), ("8.8.8.8", 2)), "dialled": {"tcp": (False,)}},
            {"port": "poor", "nat": "poor"},
        ),
        ({"direct": 0, "relayed": 2}, {"peers": "poor"}),
        ({"direct": 0}, {"peers": "cannot"}),
        ({"clock_offsets_s": (4.0, 4.1)}, {"clock-of-peers": "cannot"}),
        ({"up_bytes_per_s": 1e5}, {"upload": "poor"}),
        ({"up_bytes_per_s": None, "down_bytes_per_s": None}, {}),
    ],
)
def test_each_fault_of_the_line_is_named_with_what_mends_it(
    changed: dict[str, Any], expected: dict[str, Verdict]
) -> None:
    reach = facts(**changed)
    assert bad(reach) == expected
    assert all(one.mend for one in judge_reach(reach) if one.verdict in ("poor", "cannot"))


def test_who_did_not_dial_back_and_why_is_told() -> None:
    reach = facts(dialled={}, refusals=("they run an older version of paris-p2p",))
    found = of(reach, "port")
    assert found.verdict == "unknown"
    assert "nobody answered" in found.found
    assert "older version" in found.found


def test_one_of_two_protocols_that_does_not_get_through_is_named() -> None:
    found = of(facts(dialled={"tcp": (True,), "udp": (False,)}), "port")
    assert found.verdict == "note"
    assert "UDP port 31337" in found.mend


def test_six_is_welcome_and_not_needed() -> None:
    assert of(facts(), "ipv6").verdict == "note"
    assert of(facts(own_ips=OWN | {"2a00:1450::1"}, six_out=True), "ipv6").verdict == "good"


def test_rates_are_over_all_that_moved() -> None:
    assert mean_rate([]) is None
    assert mean_rate([(100, 1.0), (300, 1.0)]) == 200.0
