"""`paris-run say` and `state`: an owner's word from the command line to another peer's state, and every way
that it cannot go.
"""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from paris_p2p.cli.owner_key import PASSPHRASE_VARIABLE
from paris_p2p.cli.run import app
from paris_p2p.cli.saying import kept_word
from paris_p2p.crew_records import CrewSpec
from paris_p2p.errors import ParisError
from paris_p2p.identity import Identity
from paris_p2p.keyring import Keyring, RunKey, load_keyring, save_keyring
from paris_p2p.node.owner_desk import OwnerDesk
from paris_p2p.node.run_node import opened
from paris_p2p.owner_records import Pause, Resume
from paris_p2p.preparation.owner_words import NOTICES
from paris_p2p.swarm.fake import FakeNetwork
from tests.made.owner_home import host_at, make_home, owners_node
from tests.rules.made_notices import OWNER, chain_of

MIA = Identity.generate().peer_id


def say(folder: Path, *words: str, fails: bool = False, **environment: str) -> str:
    """Returns what `paris-run say FOLDER …` prints; of one that fails, its error."""
    return _run("say", str(folder), *words, fails=fails, **environment)


def _run(*words: str, fails: bool = False, **environment: str) -> str:
    result = CliRunner().invoke(app, list(words), env={"NO_COLOR": "1", "COLUMNS": "200", **environment})
    if isinstance(result.exception, ParisError):
        assert fails, result.exception
        return str(result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert (result.exit_code != 0) == fails, result.output
    return " ".join(result.output.split())


def state(folder: Path) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["state", str(folder), "--json"])
    assert result.exit_code == 0, result.exception
    return dict(json.loads(result.output))


async def test_a_word_reaches_another_peer_and_is_shown(tmp_path: Path) -> None:
    run, network = make_home(tmp_path / "run"), FakeNetwork()
    async with owners_node(tmp_path / "run", run, network) as node:
        said = await asyncio.to_thread(say, tmp_path / "run", "pause", "--reason", "dinner")
        assert "said: notice 1, owner, " in said
        assert "paused: dinner" in said
        assert "no other peer is connected now; the run's node has it" in said
        async with opened(host_at(tmp_path / "peer", network), run) as peer:
            said = await asyncio.to_thread(
                say, tmp_path / "run", "admit", MIA, "--for", "train", "--name", "Mia"
            )
            assert f"told: 1 of 1 connected peers have it (…{peer.peer_id[-8:]})" in said
            assert "now: paused by notice 1: dinner" in said
            assert peer.state.paused is not None
            said = await asyncio.to_thread(say, tmp_path / "run", "revoke", "Mia", "--no-wait")
            assert f"revoked Mia (…{MIA[-8:]})" in said
            assert "handed to the run's node, which tells the others" in said
            assert peer.state.is_revoked(MIA)
            assert node.chain.number == 3
        shown = await asyncio.to_thread(state, tmp_path / "run")
    assert [notice["act"] for notice in shown["notices"]] == ["pause", "admit", "revoke"]
    assert shown["paused"] == 1
    assert [one["peer"] for one in shown["revoked"]] == [MIA]


async def test_a_card_is_taken_back_from_where_the_runs_node_knows_it(tmp_path: Path) -> None:
    from tests.rules.made import A, B, attest, card

    run, now_s = make_home(tmp_path, created_at=time.time() - 86400.0), time.time()
    head = {"run": run.id, "issued_at": now_s, "expires_at": now_s + 60.0}
    first = card(A, **head)
    second = card(A, first, **head)
    async with owners_node(tmp_path, run, FakeNetwork()) as node:
        for one in (first, attest(B, first, **head), second, attest(B, second, **head)):
            node.keep(one)
        said = await asyncio.to_thread(say, tmp_path, "revoke-card", "expert-0")
        assert f"took back expert-0 seq 2 ({second.id[:8]}…) and what stands on it" in said
        tip = node.board.tip("expert-0")
        assert tip is not None
        assert tip.card.id == first.id
        assert "there is no expert-7; the run has expert-0, expert-1, router" in await asyncio.to_thread(
            say, tmp_path, "revoke-card", "expert-7", fails=True
        )


def test_without_its_node_a_notice_is_kept_and_told_when_that_starts(tmp_path: Path) -> None:
    make_home(tmp_path)
    said = say(tmp_path, "pause")
    assert "not told yet: the run's node is not running" in said
    assert f"Start it with: paris-run publish {tmp_path}" in said
    assert say(tmp_path, "extend", "--total-steps", "500").count("said: notice 2") == 1
    assert state(tmp_path)["numbers"] == {"total_steps": {"signed": 0, "now": 500}}
    assert "which knows where the card stands, is not running" in say(
        tmp_path, "revoke-card", "router", fails=True
    )


async def test_what_was_kept_is_taken_by_the_node_that_starts(tmp_path: Path) -> None:
    run = make_home(tmp_path)
    assert kept_word(tmp_path) is None
    await asyncio.to_thread(say, tmp_path, "pause", "--reason", "night")
    async with owners_node(tmp_path, run, FakeNetwork()) as node:
        kept = kept_word(tmp_path)
        assert kept is not None
        await OwnerDesk(node).take(kept)
        assert node.state.paused is not None
    # a folder that was lost meanwhile: what the node kept on its disk goes on
    for path in (tmp_path / NOTICES).iterdir():
        path.unlink()
    assert "said: notice 2" in await asyncio.to_thread(say, tmp_path, "resume")
    assert len(list((tmp_path / NOTICES).iterdir())) == 2


def test_damaged_notices_do_not_keep_a_node_from_starting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_home(tmp_path)
    say(tmp_path, "pause")
    (tmp_path / NOTICES / "00001").write_bytes(b"junk")
    assert kept_word(tmp_path) is None
    assert "note: the notices in" in capsys.readouterr().out
    assert "00001 is damaged" in say(tmp_path, "resume", fails=True)


async def test_a_node_that_knows_other_notices_has_nothing_signed(tmp_path: Path) -> None:
    run = make_home(tmp_path)
    await asyncio.to_thread(say, tmp_path, "pause")
    (other,) = chain_of(run.id, [Resume()], at_s=time.time() - 9)
    async with owners_node(tmp_path, run, FakeNetwork()) as node:
        node.keep(other)
        said = await asyncio.to_thread(say, tmp_path, "resume", fails=True)
        assert "and the run's node have different notices 1" in said
        (third,) = chain_of(run.id, [Pause(reason="x")], at_s=time.time() - 8)
        node.keep(third)
        assert "nothing can be said any more: the run's owner contradicts itself" in await asyncio.to_thread(
            say, tmp_path, "resume", fails=True
        )
    assert [path.name for path in (tmp_path / NOTICES).iterdir()] == ["00001"]


def test_a_dry_run_signs_nothing_and_needs_no_key(tmp_path: Path) -> None:
    make_home(tmp_path, passphrase="secret")
    (tmp_path / "owner.key").unlink()
    said = say(tmp_path, "pause", "--dry-run")
    assert "would say: notice 1" in said
    assert "now: paused by notice 1" in said
    assert not (tmp_path / NOTICES).exists()


def test_a_wrong_passphrase_signs_nothing(tmp_path: Path) -> None:
    make_home(tmp_path, passphrase="secret")
    said = say(tmp_path, "pause", fails=True, **{PASSPHRASE_VARIABLE: "guess"})
    assert "wrong or missing passphrase" in said
    assert not (tmp_path / NOTICES).exists()
    assert "said: notice 1" in say(tmp_path, "pause", **{PASSPHRASE_VARIABLE: "secret"})


def test_a_key_that_is_not_the_owners_signs_nothing(tmp_path: Path) -> None:
    from paris_p2p.identity import save_owner_key

    make_home(tmp_path)
    (tmp_path / "owner.key").unlink()
    save_owner_key(Identity.generate(), tmp_path / "owner.key", None)
    assert f"this run's owner is {OWNER.peer_id}; a notice by another key is worth nothing" in say(
        tmp_path, "pause", fails=True
    )
    assert not (tmp_path / NOTICES).exists()


def test_a_clock_behind_the_newest_notice_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_home(tmp_path)
    say(tmp_path, "pause")
    early_s = time.time() - 7200
    monkeypatch.setattr("paris_p2p.cli.saying.time.time", lambda: early_s)
    said = say(tmp_path, "resume", fails=True)
    assert "this machine's clock says" in said
    assert "s later; set the clock and try again" in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["dance"], "No such command 'dance'"),
        ([], "say what? admit, revoke, revoke-card, pause, resume, end, extend"),
        (["admit", "12D3Koo", "--for", "train"], "is not a peer id: it has 7 letters where 52 are due"),
        (["admit", MIA], "Missing option '--for'"),
        (
            ["admit", MIA, "--for", "dance"],
            "'dance' is no right; there are train, attest, generate, store, admit",
        ),
        (["admit", MIA, "--for", "train", "--until", "2001-01-01"], "--until names a date that is over"),
        (["admit", MIA, "--for", "train", "--until", "soon"], "--until 'soon' is no date; write 2026-12-31"),
        (["revoke", "Mia"], "nor the end of one or a name that is known here"),
        (["revoke", MIA, "--since", "2999-01-01"], "--since names a date that has not come"),
        (["resume"], "the run is not paused; nothing was said"),
        (["extend"], "name what is to change"),
        (["end"], "cannot ask here, since there is no terminal"),
        (["pause", "--reason", "x" * 301], "reason 'xxx"),
        (["pause", "--reason", "\x1b[2J"], "must not hold control characters"),
        (["revoke-card", "expert"], "'expert' is no slot"),
        (["revoke-card", "expert-0", "ab", "--seq", "1"], "--seq and --floor go together"),
        (["--send", "/nowhere"], "/nowhere is not there, where a signed notice is wanted"),
    ],
)
def test_what_cannot_be_said_is_refused_with_its_reason(tmp_path: Path, words: list[str], says: str) -> None:
    make_home(tmp_path)
    assert says in say(tmp_path, *words, fails=True)
    assert not (tmp_path / NOTICES).exists()


def test_an_end_is_for_good(tmp_path: Path) -> None:
    make_home(tmp_path)
    assert "ended the run: enough" in say(tmp_path, "end", "--reason", "enough", "--yes")
    assert "was ended by notice 1, for good" in say(tmp_path, "pause", fails=True)


async def test_what_is_signed_on_another_machine_is_sent_from_here(tmp_path: Path) -> None:
    here, away = tmp_path / "here", tmp_path / "away"
    run = make_home(here)
    away.mkdir()
    for name in ("owner.key", "run.spec"):
        (here / name).rename(away / name) if name == "owner.key" else (away / name).write_bytes(run.data)
    file = tmp_path / "notice.json"
    said = await asyncio.to_thread(say, away, "pause", "--reason", "night", "--sign-only", str(file))
    assert f"wrote {file}; deliver it with: paris-run say FOLDER --send notice.json" in said
    assert file.stat().st_mode & 0o777 == 0o600
    assert "owner.key is not here; where it is" in await asyncio.to_thread(say, here, "pause", fails=True)
    async with owners_node(here, run, FakeNetwork()) as node:
        said = await asyncio.to_thread(say, here, "--send", str(file))
        assert "sent: notice 1, owner," in said
        assert "now: paused by notice 1: night" in said
        assert node.state.paused is not None
        assert "nothing in" in await asyncio.to_thread(say, here, "--send", str(file))
        # the next one follows it, though the machines never met
        await asyncio.to_thread(say, away, "resume", "--sign-only", str(file))
        await asyncio.to_thread(say, here, "--send", str(file))
        assert node.chain.number == 2
        other = make_home(tmp_path / "other", name="other")
        assert other.id != run.id
        assert "those notices are of run" in await asyncio.to_thread(
            say, tmp_path / "other", "--send", str(file), fails=True
        )
        file.write_text("junk")
        assert "is no file that --sign-only wrote, or was cut" in await asyncio.to_thread(
            say, here, "--send", str(file), fails=True
        )


async def test_a_revocation_in_a_private_run_makes_a_key_that_only_the_node_can_read(tmp_path: Path) -> None:
    key = RunKey.generate()
    make_home(tmp_path, members_only=True, private=True, key_hash=key.hash, oldest_reader=4)
    save_keyring(tmp_path, Keyring((key,)))
    said = await asyncio.to_thread(say, tmp_path, "revoke", MIA)
    assert "a new key is in force" in said
    assert "what it fetched before stays with it" in said
    assert "to its safe place again: it holds the new key, too" in said
    assert len(load_keyring(tmp_path).keys) == 2
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o600
    assert state(tmp_path)["keys"] == 2


def test_what_a_run_is_stands_in_words(tmp_path: Path) -> None:
    make_home(tmp_path, members_only=True, oldest_reader=4)
    say(tmp_path, "admit", MIA, "--for", "generate,train", "--until", "2090-12-31", "--name", "Mia\x0a[red]")
    text = _run("state", str(tmp_path))
    assert "members only" in text
    assert "now: open for training" in text
    assert f"(…{MIA[-8:]}): train, generate until 2091-01-01 00:00, by the owner" in text
    assert "Mia [red]" in text
    assert state(tmp_path)["members"][1]["rights"] == ["train", "generate"]
    assert "training: one machine trains a slot" in text
    assert state(tmp_path)["crew"] is None


def test_how_a_runs_crews_work_stands_in_words_and_numbers(tmp_path: Path) -> None:
    make_home(tmp_path, oldest_reader=5, crew=CrewSpec(peers=6, parts=4))
    text = " ".join(_run("state", str(tmp_path)).split())
    assert "up to 6 machines train a slot together, in rounds of 30 to 250 steps" in text
    assert "about 0.24 bits a parameter, 132 times less than float32, of one chunk in 4 a round" in text
    assert state(tmp_path)["crew"]["parts"] == 4
