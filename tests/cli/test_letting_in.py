"""`paris-run invite` and `requests`: a token that lets in as many as it says, a person's yes and no."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
import segno
from typer.testing import CliRunner

from paris_p2p.cli.letting_in import qr_code
from paris_p2p.cli.run import app
from paris_p2p.errors import InviteError, ParisError
from paris_p2p.identity import Identity, load_peer_key
from paris_p2p.invite import Invite
from paris_p2p.node.invite_peers import PEERS_FILE, keep_invite_peers, kept_invite_peers
from paris_p2p.node.joining import Newcomer, join_run
from paris_p2p.node.run_node import opened
from paris_p2p.swarm.fake import FakeNetwork
from tests.made.owner_home import host_at, make_home, owners_node

MEMBERS: dict[str, Any] = {"members_only": True, "oldest_reader": 4}
MIA = Identity.from_private_bytes(bytes([1]) * 32).peer_id


def typed(*words: str, fails: bool = False) -> str:
    result = CliRunner().invoke(app, list(words), env={"NO_COLOR": "1", "COLUMNS": "200"})
    if isinstance(result.exception, ParisError):
        assert fails, result.exception
        return str(result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert (result.exit_code != 0) == fails, result.output
    return result.output


def words_of(said: str) -> str:
    return " ".join(said.split())


def home(folder: Path, **fields: Any) -> Any:
    """An owner's folder whose node ran once."""
    run = make_home(folder, **(MEMBERS | fields))
    me = load_peer_key(folder / "node" / "identity.key").peer_id
    keep_invite_peers(folder / "node", [f"/ip4/192.0.2.7/tcp/31337/p2p/{me}"])
    return run


async def test_an_invite_lets_in_as_many_as_it_says(tmp_path: Path) -> None:
    run, network, file = home(tmp_path / "run"), FakeNetwork(), tmp_path / "invite"
    words = ("--for", "generate,train", "--uses", "1", "--until", "7d", "--out", str(file))
    async with owners_node(tmp_path / "run", run, network) as node:
        said = words_of(await asyncio.to_thread(typed, "invite", str(tmp_path / "run"), *words))
        assert "it lets in 1 machine until " in said
        assert "to train, generate, by" in said
        assert file.stat().st_mode & 0o777 == 0o600
        invite = Invite.parse(file.read_text())
        assert str(invite) not in said
        token = invite.token
        assert token is not None
        assert token.signer == node.peer_id
        assert token.record.admitters == (node.peer_id,)
        assert abs(token.record.expires_at - time.time() - 7 * 86400) < 60
        first = host_at(tmp_path / "first", network)
        assert await join_run(first, invite) == run
        assert node.state.rights(first.identity.peer_id) == {"train", "generate"}
        with pytest.raises(InviteError, match="used up"):
            await join_run(host_at(tmp_path / "second", network), invite)


def test_without_its_node_an_invite_names_the_addresses_of_last_time_and_says_so(tmp_path: Path) -> None:
    home(tmp_path)
    said = typed("invite", str(tmp_path))
    assert "the run's node is not running; the invite names its addresses of last time" in " ".join(
        said.split()
    )
    invite = Invite.parse(said)
    assert invite.peers == kept_invite_peers(tmp_path / "node")
    assert invite.token is not None
    assert invite.token.record.rights == ("train", "attest", "generate")
    (tmp_path / "node" / PEERS_FILE).write_text("[1]")
    assert "never ran, so an invite would name nobody to ask" in typed("invite", str(tmp_path), fails=True)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--for", "admit"], "an invite gives nobody the right to let others in"),
        (["--for", "fly"], "'fly' is no right"),
        (["--until", "never"], "an invite lasts up to 365 days"),
        (["--until", "2001-01-01"], "--until names a date that is over; name a later one"),
        (["--admitter", MIA], f"{MIA} may not let others in"),
        (["--admitter", "Mia"], "nor the end of one or a name that is known here"),
        (["--uses", "0"], "Invalid value for '--uses'"),
    ],
)
def test_an_invite_that_cannot_be_is_refused(tmp_path: Path, words: list[str], says: str) -> None:
    home(tmp_path)
    assert says in typed("invite", str(tmp_path), *words, fails=True)


def test_a_run_that_is_open_needs_no_token(tmp_path: Path) -> None:
    home(tmp_path, members_only=False)
    said = typed("invite", str(tmp_path), fails=True)
    assert "the run is open to everybody, who need no token: paris:" in said


def test_a_delegate_of_the_owner_lets_in_and_makes_invites_from_its_data_directory(tmp_path: Path) -> None:
    run = home(tmp_path / "run")
    mate, network = tmp_path / "mate", FakeNetwork()
    peer = host_at(mate, network).identity.peer_id
    typed("say", str(tmp_path / "run"), "admit", peer, "--for", "admit,train", "--name", "Mate")
    said = typed("invite", str(tmp_path / "run"), "--admitter", "Mate")
    token = Invite.parse(said).token
    assert token is not None
    assert token.record.admitters == (peer,)

    async def lives() -> None:
        from paris_p2p.cli.saying import kept_word
        from paris_p2p.node.owner_desk import OwnerDesk

        kept = kept_word(tmp_path / "run")
        assert kept is not None
        async with opened(host_at(mate, network, load_peer_key(mate / "identity.key")), run) as node:
            await OwnerDesk(node).take(kept)
            invite = Invite.parse(said)
            assert await join_run(host_at(tmp_path / "new", network), invite) == run

    asyncio.run(lives())
    keep_invite_peers(mate, [f"/ip4/192.0.2.8/tcp/31337/p2p/{peer}"])
    own = Invite.parse(typed("invite", str(mate), "--for", "generate"))
    assert own.token is not None
    assert own.token.signer == peer
    assert "is of 0 runs" in typed("invite", str(lonely(tmp_path)), fails=True)


def lonely(folder: Path) -> Path:
    """A data directory of a peer that never joined a run."""
    host_at(folder / "lonely", FakeNetwork())
    return folder / "lonely"


async def test_who_asks_is_seen_let_in_or_told_no(tmp_path: Path) -> None:
    run, network, folder = home(tmp_path / "run"), FakeNetwork(), str(tmp_path / "run")
    async with owners_node(tmp_path / "run", run, network) as node:
        assert "nobody asks to be let in" in await asyncio.to_thread(typed, "requests", folder)
        plain, said = Invite(run=run.id, peers=()), list[str]()
        wants = [
            Newcomer(name=name, asks=True, say=said.append, again_s=0.02) for name in ("Mia", "Eve\u202e")
        ]
        hosts = [host_at(tmp_path / name, network) for name in ("mia", "eve")]
        joining = [
            asyncio.create_task(join_run(host, plain, want)) for host, want in zip(hosts, wants, strict=True)
        ]
        while len(node.admitter.requests()) < 2:
            await asyncio.sleep(0.01)
            assert not any(task.done() for task in joining)
        asked = {one.peer: one.number for one in node.admitter.requests()}
        mia, eve = (host.identity.peer_id for host in hosts)
        listed = await asyncio.to_thread(typed, "requests", folder)
        assert f"{asked[mia]:>3}  {mia}  Mia" in listed
        assert "\u202e" not in listed
        assert f"paris-run requests {folder} --admit {min(asked.values())}" in listed
        number = str(asked[mia])
        done = await asyncio.to_thread(typed, "requests", folder, "--admit", number, "--for", "generate")
        assert f"let in, to generate: {mia} Mia" in words_of(done)
        await asyncio.to_thread(typed, "requests", folder, "--deny", str(asked[eve]))
        assert await joining[0] == run
        assert node.state.rights(mia) == {"generate"}
        with pytest.raises(InviteError, match="the run's owner said no"):
            await joining[1]
        assert "nobody asks under number 77" in await asyncio.to_thread(
            typed, "requests", folder, "--deny", "77", fails=True
        )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--admit", "1", "--deny", "2"], "not both"),
        (["--admit", "1", "--for", "admit"], "given by the owner's notice alone"),
        (["--admit", "1", "--until", "2001-01-01"], "a date that is over"),
        ([], "is not running, and nobody else can be asked; paris-run publish"),
    ],
)
def test_an_answer_that_cannot_be_is_refused(tmp_path: Path, words: list[str], says: str) -> None:
    home(tmp_path)
    assert says in typed("requests", str(tmp_path), *words, fails=True)


def test_a_qr_code_in_the_terminal_is_the_invites(tmp_path: Path) -> None:
    home(tmp_path)
    said = typed("invite", str(tmp_path), "--qr")
    invite = Invite.parse(said)
    assert qr_code(str(invite)).strip("\n") in said
    # two rows in a line: ▀ light above, ▄ below, █ both; light is what a dark terminal has no ink for
    halves = {" ": (1, 1), "▀": (0, 1), "▄": (1, 0), "█": (0, 0)}
    lines = qr_code(str(invite)).strip("\n").split("\n")
    cells = [[halves[letter] for letter in line] for line in lines]
    rows = [[cell[half] for cell in line] for line in cells for half in (0, 1)]
    whole = [[int(dark) for dark in row] for row in segno.make(str(invite), error="l").matrix_iter(border=2)]
    assert rows[: len(whole)] == whole
