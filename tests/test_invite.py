"""Invites with a join token: read strictly, also out of a mail, and by readers that know no tokens."""

from __future__ import annotations

import textwrap
import time
from urllib.parse import parse_qsl

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paris_p2p import envelope
from paris_p2p.errors import InviteError, UsageError, VersionError
from paris_p2p.identity import Identity
from paris_p2p.invite import Invite, make_token
from paris_p2p.owner_records import RIGHTS
from paris_p2p.spec import open_run, sign_run

from .test_spec import spec

RUN, OWNER, NODE = "ab" * 32, Identity.generate(), Identity.generate().peer_id
PEER = f"/ip4/192.0.2.7/tcp/31337/p2p/{NODE}"
NOW_S = time.time()


def invite(run: str = RUN, **more: object) -> Invite:
    fields: dict = {"uses": 5, "now_s": NOW_S, "until_s": NOW_S + 3600, "admitters": [NODE]} | more
    token = make_token(OWNER, run, fields.pop("rights", ("train", "generate")), **fields)
    return Invite(run=RUN, peers=(PEER, PEER.replace("tcp", "udp")), join=token.data)


@settings(max_examples=40)
@given(
    rights=st.sets(st.sampled_from([right for right in RIGHTS if right != "admit"]), min_size=1),
    uses=st.integers(1, 100_000),
    width=st.integers(20, 90),
    quote=st.sampled_from(["", "> ", "  "]),
)
def test_an_invite_comes_whole_out_of_a_wrapped_mail(
    rights: set[str], uses: int, width: int, quote: str
) -> None:
    sent = invite(rights=tuple(sorted(rights)), uses=uses)
    wrapped = textwrap.wrap(str(sent), width, break_long_words=True, break_on_hyphens=False)
    mail = "Hello,\n" + "\n".join(quote + line for line in wrapped) + "\n\nsee you on Monday\n"
    read = Invite.parse(mail)
    assert read == sent
    assert read.token is not None
    assert (set(read.token.record.rights), read.token.record.uses) == (rights, uses)


def test_a_reader_that_knows_no_tokens_finds_run_and_peers_where_they_were() -> None:
    name, _, query = str(invite()).partition("?")
    assert name == f"paris:{RUN}"
    assert tuple(value for key, value in parse_qsl(query) if key == "peer") == invite().peers


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda text: text[:-30], "damaged"),
        (lambda text: text.replace("join=k8T", "join=k8X"), "damaged"),
        (lambda text: text + "&join=" + text.rpartition("join=")[2], "2 join tokens"),
        (lambda text: text.replace("join=", "join=%00"), "damaged"),
        (lambda text: text.replace(RUN, "cd" * 32), "of another run than cdcdcd"),
    ],
)
def test_a_token_that_is_not_whole_is_named(damage, says: str) -> None:
    text = damage(str(invite()))
    with pytest.raises(InviteError, match=says):
        Invite.parse(text)


def test_an_expired_token_is_refused_before_anybody_is_asked() -> None:
    sent = Invite.parse(str(invite(until_s=NOW_S + 60)))
    assert sent.usable_token(NOW_S + 59) is not None
    with pytest.raises(InviteError, match=r"has expired, 1\.0 h ago; ask the run's owner"):
        sent.usable_token(NOW_S + 3660)


@pytest.mark.parametrize(
    "wrong",
    [
        {"rights": ("admit",)},
        {"rights": ()},
        {"uses": 0},
        {"until_s": NOW_S - 1},
        {"until_s": NOW_S + 366 * 86400},
        {"admitters": []},
        {"admitters": ["12D3KooW"]},
    ],
)
def test_no_token_is_made_that_nobody_could_use(wrong: dict) -> None:
    with pytest.raises(UsageError):
        invite(**wrong)


def test_a_peer_of_the_first_version_is_told_to_update_by_a_members_only_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closed, plain = sign_run(OWNER, spec(members_only=True, owner_node=NODE)), sign_run(OWNER, spec())
    monkeypatch.setattr(envelope, "READER", 3)
    with pytest.raises(VersionError, match=r"asks for reader 4 or newer.*update paris-p2p"):
        open_run(closed.data, closed.id)
    assert open_run(plain.data, plain.id).record.oldest_reader == 1
    assert b"members_only" not in plain.data
