"""What is announced in a local network tells outsiders nothing; what is found costs a dial at most."""

from __future__ import annotations

from ipaddress import IPv4Interface

import pytest

from paris_p2p.identity import Identity
from paris_p2p.near_address import is_near, is_near_or_own
from paris_p2p.rules.near import (
    AGAIN_S,
    DAY_S,
    MAX_DIALS,
    MAX_TAGS,
    Neighbour,
    Tries,
    announcement,
    dialled_at,
    is_of_a_run,
    own_tags,
    read_announcement,
    run_secrets,
    whom_to_dial,
)

A, B = Identity.generate().peer_id, Identity.generate().peer_id
KEYS = [bytes([n]) * 32 for n in range(1, 4)]
NOW = 20_000 * DAY_S + 5.0
OWN = (IPv4Interface("192.168.1.10/24"), IPv4Interface("10.0.0.1/30"))
RUN = "ab" * 32


def heard(peer: str, tags: tuple[str, ...], hosts: tuple[str, ...] = ("192.168.1.20",)) -> Neighbour:
    said = {name.encode(): text.encode() for name, text in announcement(peer, tags).items()}
    found = read_announcement(said, hosts, 4001)
    assert found is not None
    return found


def test_members_of_a_private_run_find_each_other_and_outsiders_learn_nothing() -> None:
    runs = [run_secrets(RUN, True, KEYS)]
    mine = own_tags(runs, NOW, A)
    assert is_of_a_run(heard(A, mine), runs, NOW)
    assert not is_of_a_run(heard(A, mine), [run_secrets(RUN, False, ())], NOW)  # who knows the run's id alone
    assert not set(mine) & set(own_tags(runs, NOW, B))  # two peers of a run do not look alike
    assert not set(mine) & set(own_tags(runs, NOW + DAY_S, A))  # nor does one, a day later
    assert not is_of_a_run(heard(B, mine), runs, NOW)  # and nobody speaks with another's tag


def test_clocks_and_keys_may_be_a_little_behind_and_a_revoked_peer_follows_nobody() -> None:
    newest, behind, revoked = (run_secrets(RUN, True, KEYS[:n]) for n in (3, 2, 1))
    assert is_of_a_run(heard(A, own_tags([newest], NOW - 10, A)), [newest], NOW)
    assert is_of_a_run(heard(A, own_tags([behind], NOW, A)), [newest], NOW)
    assert not is_of_a_run(heard(A, own_tags([newest], NOW, A)), [revoked], NOW)
    assert not is_of_a_run(heard(A, own_tags([newest], NOW, A)), [newest], NOW + 2 * DAY_S)


def test_of_an_open_run_the_id_itself_is_not_announced() -> None:
    runs = [run_secrets(RUN, False, ())]
    tags = own_tags(runs, NOW, A)
    assert is_of_a_run(heard(A, tags), runs, NOW)
    assert RUN[:8] not in ",".join(tags)


def test_an_announcement_of_many_runs_stays_small() -> None:
    runs = [run_secrets(f"{n:064x}", False, ()) for n in range(50)]
    said = announcement(A, own_tags(runs, NOW, A))
    assert len(own_tags(runs, NOW, A)) == MAX_TAGS
    assert all(len(f"{name}={text}") < 255 for name, text in said.items())  # as a TXT string has to be


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"v", b"2"),
        (b"p", b"me"),
        (b"p", b"\xff"),
        (b"p", None),
        (b"r", b""),
        (b"r", b"xyz"),
        (b"r", b",".join([b"0" * 16] * (MAX_TAGS + 1))),
    ],
)
def test_a_damaged_announcement_is_none(name: bytes, text: bytes | None) -> None:
    good: dict[bytes, bytes | None] = {b"v": b"1", b"p": A.encode(), b"r": b"0" * 16}
    assert read_announcement(good, ["192.168.1.20"], 4001) is not None
    assert read_announcement(good | {name: text}, ["192.168.1.20"], 4001) is None
    assert read_announcement(good, ["192.168.1.20"], 0) is None


@pytest.mark.parametrize(
    "host",
    [
        "8.8.8.8",  # public
        "127.0.0.1",
        "192.168.1.10",  # this machine
        "192.168.2.20",  # private, and of another network
        "10.0.0.9",
        "169.254.1.1",
        "nonsense",
        "fd00::2",
    ],
)
def test_what_does_not_lie_in_this_network_is_not_dialled(host: str) -> None:
    assert dialled_at(heard(A, ("0" * 16,), (host,)), OWN) == []
    assert dialled_at(heard(A, ("0" * 16,), (host, "192.168.1.20")), OWN) == ["/ip4/192.168.1.20/tcp/4001"]


def test_a_flood_of_announcements_costs_some_dials_at_a_time_and_each_peer_ever_fewer() -> None:
    crowd = [heard(Identity.generate().peer_id, ("0" * 16,)) for _ in range(40)]
    first = whom_to_dial(crowd, set(), {}, OWN, 0.0)
    assert len(first) == MAX_DIALS
    tried = {peer: Tries(1, 0.0) for peer, _ in first}
    assert not {peer for peer, _ in first} & {peer for peer, _ in whom_to_dial(crowd, (), tried, OWN, 1e6)}
    one = crowd[:1]
    for count, wait_s in enumerate((*AGAIN_S, AGAIN_S[-1]), 1):
        tried = {one[0].peer: Tries(count, 100.0)}
        assert not whom_to_dial(one, set(), tried, OWN, 100.0 + wait_s - 1)
        assert whom_to_dial(one, set(), tried, OWN, 100.0 + wait_s)


def test_who_is_connected_already_is_left_alone() -> None:
    assert not whom_to_dial([heard(A, ("0" * 16,))], {A}, {}, OWN, 0.0)


def test_near_is_what_a_router_at_home_gives() -> None:
    near = (
        "10.1.2.3",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.0.1",
        "169.254.3.4",
        "fd00::1",
        "fe80::1%eth0",
    )
    far = ("172.32.0.1", "100.64.0.1", "192.0.2.1", "1.1.1.1", "2001:db8::1", "", "localhost", "0.0.0.0")
    assert all(map(is_near, near))
    assert not any(map(is_near, far))
    assert not is_near("127.0.0.1")
    assert all(map(is_near_or_own, (*near[:-1], "127.0.0.1", "::1")))
    assert not any(map(is_near_or_own, far))
