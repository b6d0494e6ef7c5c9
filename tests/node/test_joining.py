"""Joining a run for members only: tokens are counted, and open nothing that they should not."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from paris_p2p.envelope import encode, seal
from paris_p2p.errors import BusyError, InviteError, MissingBlobError, RecordError, UnreachableError
from paris_p2p.identity import Identity
from paris_p2p.invite import Invite
from paris_p2p.node.facing import WordLimits, join_name
from paris_p2p.node.joining import Newcomer, is_joined, join_run, newcomer_of
from paris_p2p.node.membership import CERTIFICATE, own_certificate
from paris_p2p.owner_records import Admit, JoinRequest, MemberRecord, Revoke
from tests.node.members_world import DAY_S, MACHINE, MembersWorld, soon


async def test_a_token_lets_a_machine_in_and_a_later_start_needs_none(tmp_path: Path) -> None:
    async with MembersWorld(tmp_path) as world:
        owner, host = await world.owners_node(), world.host("a")
        node = await world.join(host, world.token(), name="office 3")
        assert owner.state.rights(node.peer_id) == node.state.rights(node.peer_id) == set(MACHINE)
        assert [one.record.name for one in owner.membership.known.values()] == ["office 3"]
        assert node.membership.certificate is not None
        again = Invite(run=world.run.id, peers=())
        assert await join_run(host, again) == world.run


@pytest.mark.parametrize("is_generator", [False, True])
def test_a_newcomers_folders_are_private_before_a_node_locks_them(tmp_path: Path, is_generator: bool) -> None:
    data_dir = tmp_path / "new" / "data"
    newcomer = newcomer_of(data_dir, is_generator=is_generator)
    assert newcomer.other_home in (data_dir, data_dir / "generator")
    assert {path.stat().st_mode & 0o777 for path in (data_dir, data_dir / "generator")} == {0o700}


async def test_one_use_admits_a_machines_peer_and_its_generator(tmp_path: Path) -> None:
    async with MembersWorld(tmp_path) as world:
        owner, host, other = await world.owners_node(), world.host("a"), Identity.generate()
        invite, home = world.token(uses=1), tmp_path / "generator"
        node = await world.join(host, invite, other=other, other_home=home)
        assert owner.state.rights(other.peer_id) == {"generate"}
        assert is_joined(home, world.run.id)
        await node.membership.greet_connected()
        generator = world.host("generator", other)
        assert await join_run(generator, Invite(run=world.run.id, peers=())) == world.run
        assert owner.admitter.admitted == 1


async def test_a_generator_that_joins_first_uses_the_machines_one_use(tmp_path: Path) -> None:
    async with MembersWorld(tmp_path) as world:
        owner, main = await world.owners_node(), Identity.generate()
        invite, generator = world.token(uses=1), world.host("generator")
        as_generator = Newcomer(is_generator=True, other=main, other_home=tmp_path / "main")
        await join_run(generator, invite, as_generator)
        assert owner.state.rights(generator.identity.peer_id) == {"generate"}
        assert owner.state.rights(main.peer_id) == set(MACHINE)
        node = await world.join(world.host("main", main), invite)
        assert node.state.rights(main.peer_id) == set(MACHINE)


async def test_a_used_up_token_lets_in_those_who_used_it_and_nobody_else(tmp_path: Path) -> None:
    async with MembersWorld(tmp_path) as world:
        await world.owners_node()
        invite, first = world.token(uses=1), world.host("a")
        await world.join(first, invite)
        with pytest.raises(InviteError, match=r"used up.*ask the run's owner for a new invite"):
            await join_run(world.host("thief"), invite)
        ledger = world.run and (tmp_path / "a" / "runs" / world.run.id / "ledger")
        (ledger / CERTIFICATE).unlink()  # a disk that lost it
        assert await join_run(first, invite) == world.run
        assert (ledger / CERTIFICATE).is_file()


async def test_of_two_that_race_for_the_last_use_one_gets_in(tmp_path: Path) -> None:
    async with MembersWorld(tmp_path) as world:
        owner = await world.owners_node()
        invite = world.token(uses=3)
        racers = [join_run(world.host(f"racer {n}"), invite) for n in range(8)]
        ended = await asyncio.gather(*racers, return_exceptions=True)
        assert sum(one == world.run for one in ended) == 3
        assert sum(isinstance(one, InviteError) for one in ended) == 5
        assert owner.admitter.admitted == 3


async def test_uses_are_counted_over_a_restart_of_the_admitter(tmp_path: Path) -> None:
    invite = None
    async with MembersWorld(tmp_path) as world:
        owner = await world.owners_node()
        invite = world.token(uses=1)
        node = await world.join(world.host("a"), invite)
        await world.stack.aclose()
        world.network.swarms.pop(owner.peer_id)
        again = await world.owners_node()
        assert again.state.rights(node.peer_id) == set(MACHINE)
        with pytest.raises(InviteError, match="used up"):
            await join_run(world.host("b"), invite)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"ago_s": 3 * DAY_S}, "has expired"),
        ({"issuer": Identity.generate()}, "may not let in any more"),
        ({"admitters": [Identity.generate().peer_id]}, None),
    ],
)
async def test_a_token_that_is_worth_nothing_says_why(
    tmp_path: Path, changes: dict[str, Any], says: str | None
) -> None:
    async with MembersWorld(tmp_path) as world:
        await world.owners_node()
        said: list[str] = []
        joining = join_run(world.host("a"), world.token(**changes), Newcomer(say=said.append, again_s=0.01))
        if says is not None:
            with pytest.raises(InviteError, match=says):
                await joining
            return
        task = asyncio.create_task(joining)
        await soon(lambda: said)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert f"waiting to be let in by {changes['admitters'][0]} (it cannot be reached)" in said[0]


async def test_a_token_of_another_run_is_refused_before_anybody_is_asked(tmp_path: Path) -> None:
    async with MembersWorld(tmp_path) as world:
        text = str(world.token(run="cd" * 32))
        with pytest.raises(InviteError, match=r"token is damaged, or of another run than"):
            Invite.parse(text)
        with pytest.raises(InviteError, match="damaged"):
            Invite.parse(str(world.token())[:-20])


async def test_a_revoked_peer_is_not_let_in_again_by_a_token_that_is_left(tmp_path: Path) -> None:
    async with MembersWorld(tmp_path) as world:
        owner, invite = await world.owners_node(), world.token(uses=5)
        host = world.host("a")
        await world.join(host, invite)
        owner.keep(world.notice(Revoke(peer=host.identity.peer_id)))
        (tmp_path / "a" / "runs" / world.run.id / "ledger" / CERTIFICATE).unlink()
        with pytest.raises(InviteError, match="not let in"):
            await join_run(host, invite, Newcomer(again_s=0.01))
        assert owner.host.shown_to(host.identity.peer_id, "spec", "", world.run.id).spec(world.run.id) is None


async def test_whoever_is_revoked_takes_its_machines_other_key_and_its_invite_along(tmp_path: Path) -> None:
    async with MembersWorld(tmp_path) as world:
        owner, invite, other = await world.owners_node(), world.token(uses=5), Identity.generate()
        left, stays = world.host("left"), world.host("stays")
        await world.join(left, invite, other=other, other_home=tmp_path / "generator")
        await world.join(stays, invite)
        owner.keep(world.notice(Revoke(peer=left.identity.peer_id)))
        assert owner.state.rights(other.peer_id) == frozenset()
        assert owner.state.rights(stays.identity.peer_id) == set(MACHINE)
        with pytest.raises(InviteError, match="was revoked since, so that it lets in nobody new"):
            await join_run(world.host("the same person"), invite)
        (tmp_path / "stays" / "runs" / world.run.id / "ledger" / CERTIFICATE).unlink()
        assert await join_run(stays, invite) == world.run


async def test_of_two_admitters_each_counts_those_that_came_to_the_other(tmp_path: Path) -> None:
    async with MembersWorld(tmp_path) as world:
        owner = await world.owners_node()
        delegate = await world.join(world.host("delegate"), world.token())
        admit = world.notice(Admit(peer=delegate.peer_id, rights=("admit",)))
        for node in (owner, delegate):
            node.keep(admit)
        both = [delegate.peer_id, owner.peer_id]  # they are asked in this order
        once, often = world.token(uses=1, admitters=both), world.token(uses=5, admitters=both)
        first = await world.join(world.host("a"), once)
        leaver = await world.join(world.host("b"), often)
        assert delegate.admitter.admitted == 2
        await soon(lambda: owner.state.is_member(first.peer_id) and owner.state.is_member(leaver.peer_id))
        with pytest.raises(InviteError, match="used up"):
            await join_run(world.host("c"), once)
        revoked = world.notice(Revoke(peer=leaver.peer_id))
        for node in (owner, delegate):
            node.keep(revoked)
        with pytest.raises(InviteError, match="was revoked since, so that it lets in nobody new"):
            await join_run(world.host("the same person"), often)


async def test_an_owners_node_that_is_about_to_serve_its_run_is_waited_for(tmp_path: Path) -> None:
    async with MembersWorld(tmp_path) as world:
        owner, said = await world.owners_node(), list[str]()
        serving = owner.host.members.pop(world.run.id)  # its host is up, and its run is not yet
        newcomer = Newcomer(say=said.append, again_s=0.2)
        joining = asyncio.create_task(join_run(world.host("early"), world.token(), newcomer))
        await soon(lambda: said)
        assert said == [
            f"waiting to be let in: {owner.peer_id} does not serve this run, or not yet; "
            "trying again every 0 s"
        ]
        owner.host.members[world.run.id] = serving
        assert await joining == world.run


async def test_a_peer_whose_delegate_was_revoked_joins_again_by_a_new_invite(tmp_path: Path) -> None:
    async with MembersWorld(tmp_path) as world:
        owner = await world.owners_node()
        delegate = await world.join(world.host("delegate"), world.token())
        admit = world.notice(Admit(peer=delegate.peer_id, rights=("admit",)))
        for node in (owner, delegate):
            node.keep(admit)
        host, old = world.host("a"), world.token(admitters=[delegate.peer_id])
        member = await world.join(host, old)
        assert await join_run(host, old) == world.run  # it is in
        assert delegate.admitter.admitted == 1
        revoked = world.notice(Revoke(peer=delegate.peer_id))
        for node in (owner, member):
            node.keep(revoked)
        assert not owner.state.is_member(member.peer_id)
        assert await join_run(host, world.token()) == world.run
        assert owner.state.rights(member.peer_id) == set(MACHINE)
        expired = world.token(ago_s=2 * DAY_S)  # an old one keeps nobody from starting
        assert await join_run(host, expired) == world.run


async def test_joining_waits_for_an_owner_that_is_away_and_goes_on_when_a_delegate_comes(
    tmp_path: Path,
) -> None:
    async with MembersWorld(tmp_path) as world:
        owner = await world.owners_node()
        delegate = await world.join(world.host("delegate"), world.token())
        both = [owner.peer_id, delegate.peer_id]
        admit = world.notice(Admit(peer=delegate.peer_id, rights=(*MACHINE, "admit")))
        delegate.keep(admit)
        world.swarm(owner).offline = world.swarm(delegate).offline = True
        said: list[str] = []
        host = world.host("late")
        joining = asyncio.create_task(
            join_run(host, world.token(admitters=both), Newcomer(say=said.append, again_s=0.01))
        )
        await soon(lambda: said)
        assert all(f"{peer} (it cannot be reached)" in said[0] for peer in both)
        world.swarm(delegate).offline = False
        assert await joining == world.run
        assert delegate.state.is_member(host.identity.peer_id)


async def test_who_asks_without_a_token_is_seen_and_let_in_by_hand(tmp_path: Path) -> None:
    async with MembersWorld(tmp_path) as world:
        owner, host, said = await world.owners_node(), world.host("asker"), list[str]()
        invite = Invite(run=world.run.id, peers=(world.address(owner.peer_id),))
        newcomer = Newcomer(name="laptop", asks=True, say=said.append, again_s=0.01)
        joining = asyncio.create_task(join_run(host, invite, newcomer))
        await soon(lambda: owner.admitter.requests() and said)
        (one,) = owner.admitter.requests()
        assert (one.peer, one.name, one.address) == (
            host.identity.peer_id,
            "laptop",
            world.address(host.identity.peer_id),
        )
        assert f": asked {owner.peer_id}, of whom those answer who may" in said[0]
        assert owner.expects(one.peer)
        owner.admitter.admit(one.number, ("train",), time.time() + DAY_S)
        assert await joining == world.run
        assert owner.state.rights(one.peer) == {"train"}
        assert owner.admitter.requests() == []


async def test_who_is_denied_is_told_and_stops_asking(tmp_path: Path) -> None:
    async with MembersWorld(tmp_path) as world:
        owner, host = await world.owners_node(), world.host("asker")
        invite = Invite(run=world.run.id, peers=(world.address(owner.peer_id),))
        joining = asyncio.create_task(join_run(host, invite, Newcomer(asks=True, again_s=0.01)))
        await soon(lambda: owner.admitter.requests())
        owner.admitter.deny(owner.admitter.requests()[0].number)
        with pytest.raises(InviteError, match="the run's owner said no"):
            await joining


async def test_a_peer_that_a_notice_admits_needs_no_certificate(tmp_path: Path) -> None:
    async with MembersWorld(tmp_path) as world:
        owner, host = await world.owners_node(), world.host("a")
        owner.keep(world.notice(Admit(peer=host.identity.peer_id, rights=("train",))))
        invite = Invite(run=world.run.id, peers=(world.address(owner.peer_id),))
        node = await world.join(host, invite)
        assert node.state.rights(host.identity.peer_id) == {"train"}
        assert own_certificate(node.ledger, world.run.id, node.peer_id) is None


async def test_a_stranger_without_token_or_asking_is_told_what_such_a_run_needs(tmp_path: Path) -> None:
    async with MembersWorld(tmp_path) as world:
        owner = await world.owners_node()
        invite = Invite(run=world.run.id, peers=(world.address(owner.peer_id),))
        with pytest.raises(UnreachableError, match="needs an invite with a join token, or --ask"):
            await join_run(world.host("a"), invite)


async def test_a_thousand_wrong_tokens_cost_little_and_end_the_connection(tmp_path: Path) -> None:
    async with MembersWorld(tmp_path) as world:
        owner, host = await world.owners_node(), world.host("thief")
        forged = encode(
            JoinRequest(token=world.token(issuer=Identity.generate()).join).model_dump(exclude_defaults=True)
        )
        name, answers = join_name(world.run.id, owner.peer_id), []
        opened_before = owner.admitter.answer
        checked = 0

        async def counted(peer: str, body: bytes) -> bytes | None:
            nonlocal checked
            checked += 1
            return await opened_before(peer, body)

        owner.answers["join"] = counted
        for _ in range(1000):
            try:
                await host.swarm.ask(owner.peer_id, "join", name, forged)
            except (MissingBlobError, BusyError, UnreachableError) as error:
                answers.append(type(error))
        assert len(answers) == 1000
        assert checked <= 12  # the rest was not even looked at
        assert answers[-1] is UnreachableError  # it was hung up on
        assert host.identity.peer_id not in {peer.peer_id for peer in await owner.host.swarm.peers()}


async def test_a_member_that_joins_again_and_again_is_told_that_this_node_is_busy(tmp_path: Path) -> None:
    async with MembersWorld(tmp_path) as world:
        owner, host, invite = await world.owners_node(), world.host("a"), world.token()
        node = await world.join(host, invite)
        asked = encode(JoinRequest(token=invite.join).model_dump(exclude_defaults=True))
        name, version = join_name(world.run.id, owner.peer_id), owner.word.version
        answers = []
        for _ in range(50):
            try:
                answers.append(await host.swarm.ask(owner.peer_id, "join", name, asked))
            except BusyError:
                answers.append(b"")
        assert 0 < sum(map(bool, answers)) <= 10
        assert owner.word.version == version  # nothing is counted anew for it
        assert await node.membership.greet(owner.peer_id)


async def test_a_peer_that_greets_and_asks_at_its_pace_is_never_hung_up_on(tmp_path: Path) -> None:
    limits, now_s = WordLimits(), 0.0
    limits._each._clock = limits._all._clock = limits._failures._clock = lambda: now_s
    for _ in range(2000):  # five hours of asking every 10 s
        now_s += 10.0
        limits.check("asker")
        assert not limits.failed("asker")


async def test_a_forwarded_certificate_admits_nobody(tmp_path: Path) -> None:
    async with MembersWorld(tmp_path) as world:
        owner = await world.owners_node()
        member = await world.join(world.host("a"), world.token())
        thief = world.host("thief")
        assert member.membership.certificate is not None
        shown = member.membership.record()
        assert shown is not None
        now_s = time.time()
        copied = seal(
            thief.identity,
            MemberRecord(
                run=world.run.id,
                seq=1,
                issued_at=now_s,
                expires_at=now_s + 60,
                certificate=member.membership.certificate.data,
            ),
        )
        for body in (shown.data, copied.data):  # repeated as it is, and shown as the thief's own
            with pytest.raises(MissingBlobError):
                await thief.swarm.ask(owner.peer_id, "hello", world.run.id, body)
        assert not owner.state.is_member(thief.identity.peer_id)


async def test_a_clock_that_was_set_back_leaves_no_member_with_a_record_from_the_future(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others would refuse it, and believe the old one no longer than a day."""
    async with MembersWorld(tmp_path) as world:
        await world.owners_node()
        member = await world.join(world.host("a"), world.token())
        shown, now_s = member.membership.record(), time.time()
        assert shown is not None
        assert member.membership.record() == shown
        monkeypatch.setattr("paris_p2p.node.membership.time.time", lambda: now_s - 6 * 3600.0)
        again = member.membership.record()
        assert again is not None
        assert again.record.issued_at == now_s - 6 * 3600.0
        assert again.record.seq > shown.record.seq


async def test_members_learn_of_one_another_by_hello_and_over_a_restart(tmp_path: Path) -> None:
    async with MembersWorld(tmp_path) as world:
        owner = await world.owners_node()
        one = await world.join(world.host("a"), world.token())
        world.swarm(owner).offline = True
        world.network.board.clear()
        two_host = world.host("b")
        world.swarm(owner).offline = False
        two = await world.join(two_host, world.token())
        world.swarm(owner).offline = True
        await two.membership.greet(one.peer_id)
        assert one.state.is_member(two.peer_id)
        assert two.state.is_member(one.peer_id)
        await world.stack.aclose()
        again = await world.open(two_host)
        assert again.state.is_member(one.peer_id)


async def test_an_expired_certificate_opens_nothing_and_is_renewed_without_a_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with MembersWorld(tmp_path) as world:
        owner, host, invite = await world.owners_node(), world.host("a"), world.token(uses=1)
        with monkeypatch.context() as short:
            short.setattr("paris_p2p.node.admitting.CERTIFICATE_S", 0.3)
            await join_run(host, invite)
        me = host.identity.peer_id
        await soon(lambda: not owner.state.is_member(me))
        assert owner.host.shown_to(me, "spec", "", world.run.id).spec(world.run.id) is None
        assert await join_run(host, invite) == world.run
        assert owner.state.is_member(me)
        assert owner.admitter.admitted == 1


async def test_a_damaged_certificate_is_named_and_asked_for_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with MembersWorld(tmp_path) as world:
        await world.owners_node()
        host, invite = world.host("a"), world.token()
        node = await world.join(host, invite)
        node.ledger.put(CERTIFICATE, b"\0damaged")
        assert node.membership.certificate is None
        assert "the certificate of run" in caplog.text
        assert await join_run(host, invite) == world.run
        assert node.membership.certificate is not None


def test_no_invite_lets_others_let_in(tmp_path: Path) -> None:
    world = MembersWorld(tmp_path)
    with pytest.raises(Exception, match="paris-run say FOLDER admit"):
        world.token(rights=("train", "admit"))
    with pytest.raises(Exception, match="lasts up to 365 days"):
        world.token(lasts_s=400 * DAY_S)


def test_a_join_with_anothers_key_as_its_own_second_one_does_not_hold(tmp_path: Path) -> None:
    from paris_p2p.node.admitting import read_request

    victim, thief = Identity.generate(), Identity.generate()
    request = JoinRequest(other=victim.peer_id, proof=thief.sign(b"anything"))
    with pytest.raises(RecordError):
        read_request("ab" * 32, thief.peer_id, encode(request.model_dump(exclude_defaults=True)))


async def test_an_invite_for_storage_alone_is_refused_before_it_is_used(tmp_path: Path) -> None:
    async with MembersWorld(tmp_path) as world:
        owner = await world.owners_node()
        with pytest.raises(InviteError, match="paris-bootstrap serve --admit"):
            await join_run(world.host("a"), world.token(rights=("store",)))
        assert owner.admitter.admitted == 0
