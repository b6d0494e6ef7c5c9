"""An owner's folder: notices follow one another, are kept before they are told, and never make a fork."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from paris_p2p.envelope import decode, encode, seal_payload
from paris_p2p.errors import ClockError, RecordError, SignatureError, UsageError, VersionError
from paris_p2p.handed_word import HandedWord
from paris_p2p.identity import Identity, load_peer_key
from paris_p2p.key_box import open_gift
from paris_p2p.keyring import Keyring, RunKey, load_keyring, save_keyring
from paris_p2p.owner_records import Admit, Extend, Pause, Resume, Revoke
from paris_p2p.preparation.owner_words import NOTICES, OwnersFolder, is_locked, owner_key
from tests.made.owner_home import make_home
from tests.rules.made_notices import OWNER, chain_of

NOW_S = 1_790_000_000.0
PEER = Identity.generate().peer_id


def said(folder: Path, *changes: object, now_s: float = NOW_S) -> OwnersFolder:
    owners = OwnersFolder(folder)
    owners.sign(OWNER, changes, now_s)  # type: ignore[arg-type]
    owners.keep()
    return owners


def test_notices_follow_one_another_over_calls_and_are_in_files(tmp_path: Path) -> None:
    run = make_home(tmp_path)
    said(tmp_path, Pause(reason="night"))
    owners = said(tmp_path, Resume(), Admit(peer=PEER, rights=("train",)), now_s=NOW_S + 5)
    assert [path.name for path in sorted((tmp_path / NOTICES).iterdir())] == ["00001", "00002", "00003"]
    again = OwnersFolder(tmp_path)
    assert again.chain == owners.chain
    assert [notice.record.seq for notice in again.chain.notices] == [1, 2, 3]
    assert again.chain.notices[0].record.previous == run.id
    state = again.known.state(NOW_S + 6)
    assert state.paused is None
    assert state.rights(PEER) == {"train", "attest", "generate", "store"}  # of an open run, and its own


def test_what_would_be_is_signed_by_nobody_and_written_nowhere(tmp_path: Path) -> None:
    make_home(tmp_path)
    owners = OwnersFolder(tmp_path)
    assert (
        owners.would_be([Pause(), Extend(total_steps=9)], NOW_S).state(NOW_S).spec.training.total_steps == 9
    )
    assert owners.chain.number == 0
    assert not (tmp_path / NOTICES).exists()


def test_a_lost_folder_takes_the_nodes_notices_and_goes_on_after_them(tmp_path: Path) -> None:
    run = make_home(tmp_path)
    told = chain_of(run.id, [Pause(), Resume()], at_s=NOW_S)
    owners = OwnersFolder(tmp_path)
    owners.take([notice.data for notice in told], "the run's node")
    assert [notice.record.seq for notice in owners.sign(OWNER, [Pause()], NOW_S + 60)] == [3]
    owners.keep()
    assert OwnersFolder(tmp_path).chain.notices[:2] == tuple(told)


def test_a_folder_and_a_node_that_contradict_one_another_sign_nothing(tmp_path: Path) -> None:
    run = make_home(tmp_path)
    said(tmp_path, Pause())
    owners = OwnersFolder(tmp_path)
    other = chain_of(run.id, [Resume()], at_s=NOW_S)
    with pytest.raises(UsageError, match=r"have different notices 1: .*nothing was signed"):
        owners.take([notice.data for notice in other], "the run's node")
    assert len(list((tmp_path / NOTICES).iterdir())) == 1


def test_a_notice_by_another_key_is_refused_whoever_brings_it(tmp_path: Path) -> None:
    run = make_home(tmp_path)
    stranger = Identity.generate()
    owners = OwnersFolder(tmp_path)
    with pytest.raises(UsageError, match="a notice by another key is worth nothing"):
        owners.sign(stranger, [Pause()], NOW_S)
    (forged,) = chain_of(run.id, [Pause()], stranger, NOW_S)
    with pytest.raises(SignatureError, match=f"signed by {stranger.peer_id}, and the run's owner is"):
        owners.take([forged.data], "the run's node")
    assert not (tmp_path / NOTICES).exists()


def test_a_clock_behind_the_newest_notice_signs_nothing(tmp_path: Path) -> None:
    make_home(tmp_path)
    said(tmp_path, Pause())
    owners = OwnersFolder(tmp_path)
    with pytest.raises(ClockError, match="600 s later; set the clock and try again"):
        owners.sign(OWNER, [Resume()], NOW_S - 600)
    (late,) = owners.sign(OWNER, [Resume()], NOW_S - 1)  # clocks agree within seconds
    assert late.record.issued_at == NOW_S


@pytest.mark.parametrize("damage", [b"", b"\x93", None])
def test_a_damaged_notice_is_named_with_what_to_do(tmp_path: Path, damage: bytes | None) -> None:
    make_home(tmp_path)
    said(tmp_path, Pause(), Resume())
    path = tmp_path / NOTICES / "00001"
    path.write_bytes((tmp_path / NOTICES / "00002").read_bytes() if damage is None else damage)
    with pytest.raises(RecordError, match=r"00001 is damaged: .*; delete it and start `paris-run publish"):
        OwnersFolder(tmp_path)


def test_a_notice_that_is_missing_between_others_is_asked_of_the_node(tmp_path: Path) -> None:
    make_home(tmp_path)
    told = said(tmp_path, Pause(), Resume(), Pause()).chain.notices
    (tmp_path / NOTICES / "00002").unlink()
    owners = OwnersFolder(tmp_path)
    with pytest.raises(RecordError, match="notice 2 is missing in"):
        owners.check_whole()
    owners.take([notice.data for notice in told], "the run's node")
    owners.check_whole()
    assert OwnersFolder(tmp_path).chain.number == 3


def test_two_calls_at_once_do_not_use_a_number_twice(tmp_path: Path) -> None:
    make_home(tmp_path)
    one, other = OwnersFolder(tmp_path), OwnersFolder(tmp_path)
    one.sign(OWNER, [Pause()], NOW_S)
    other.sign(OWNER, [Pause(reason="too")], NOW_S)
    one.keep()
    with pytest.raises(UsageError, match="written meanwhile by another"):
        other.keep()


def test_the_owners_key_says_whether_it_is_locked_and_a_missing_one_what_to_do(tmp_path: Path) -> None:
    make_home(tmp_path / "open")
    make_home(tmp_path / "locked", passphrase="secret")
    assert not is_locked(tmp_path / "open" / "owner.key")
    assert is_locked(tmp_path / "locked" / "owner.key")
    assert owner_key(tmp_path / "locked", "secret").peer_id == OWNER.peer_id
    with pytest.raises(UsageError, match="wrong or missing passphrase"):
        owner_key(tmp_path / "locked", "guess")
    (tmp_path / "open" / "owner.key").unlink()
    with pytest.raises(UsageError, match="--sign-only FILE` writes a file"):
        owner_key(tmp_path / "open", None)


# private runs


def private_home(folder: Path) -> RunKey:
    key = RunKey.generate()
    run = make_home(folder, members_only=True, private=True, key_hash=key.hash, oldest_reader=4)
    save_keyring(folder, Keyring((key,)))
    assert run.record.private
    return key


def test_notices_of_a_private_run_are_sealed_and_a_revocation_brings_the_next_key(tmp_path: Path) -> None:
    first = private_home(tmp_path)
    owners = OwnersFolder(tmp_path)
    key = owners.next_key()
    assert owners.next_key() == key
    assert load_keyring(tmp_path).keys == (first,)  # it is kept with the notice that names it
    signed = owners.sign(OWNER, [Revoke(peer=PEER, next_key=key.hash), Pause(reason="night")], NOW_S)
    owners.keep()
    assert load_keyring(tmp_path).keys == (first, key)
    assert all(b"night" not in notice.data and PEER.encode() not in notice.data for notice in signed)
    again = OwnersFolder(tmp_path)
    assert again.known.state(NOW_S).key_hashes == (first.hash, key.hash)
    old = replace(again.known, ring=Keyring((first,)))
    assert old.open(signed[0].data).id == signed[0].id  # a member that slept reads who brought the next
    with pytest.raises(RecordError, match="is sealed under key"):
        old.open(signed[1].data)
    handed = again.handed(1)
    gift = open_gift(load_peer_key(tmp_path / "node" / "identity.key"), handed.keys)
    assert gift.keys == (first.secret, key.secret)
    assert key.secret not in handed.model_dump_json().encode()


def test_a_key_that_was_made_for_a_notice_that_never_was_is_the_next_ones(tmp_path: Path) -> None:
    private_home(tmp_path)
    key = OwnersFolder(tmp_path).next_key()
    save_keyring(tmp_path, load_keyring(tmp_path).with_key(key.secret))  # killed before the notice
    assert OwnersFolder(tmp_path).next_key() == key


def test_what_another_machine_signed_is_taken_with_its_keys(tmp_path: Path) -> None:
    first = private_home(tmp_path / "here")
    run = OwnersFolder(tmp_path / "here").known.run
    away = tmp_path / "away"
    away.mkdir()
    for name in ("owner.key", "run.spec", "keys"):
        (away / name).write_bytes((tmp_path / "here" / name).read_bytes())
    owners = OwnersFolder(away)
    key = owners.next_key()
    owners.sign(OWNER, [Revoke(peer=PEER, next_key=key.hash), Pause()], NOW_S)
    owners.keep()
    handed = HandedWord.model_validate_json(owners.handed().model_dump_json())
    here = OwnersFolder(tmp_path / "here")
    here.take_handed(handed)
    assert here.chain == owners.chain
    assert load_keyring(tmp_path / "here").keys == (first, key)
    assert handed.run == run.id


def test_a_private_run_without_its_keys_says_so(tmp_path: Path) -> None:
    private_home(tmp_path)
    (tmp_path / "keys").unlink()
    with pytest.raises(UsageError, match=r"its keys are neither in .*; restore the file from a backup"):
        OwnersFolder(tmp_path)


def test_notices_of_another_run_are_not_taken(tmp_path: Path) -> None:
    make_home(tmp_path / "one")
    other = make_home(tmp_path / "other", name="another")
    handed = HandedWord(run=other.id, notices=())
    with pytest.raises(UsageError, match="those notices are of run"):
        OwnersFolder(tmp_path / "one").take_handed(handed)


def test_a_notice_that_this_version_does_not_know_asks_for_an_update(tmp_path: Path) -> None:
    run = make_home(tmp_path)
    (known,) = chain_of(run.id, [Pause()], at_s=NOW_S)
    payload = encode(decode(known.payload) | {"change": {"act": "dance"}})
    later = seal_payload(OWNER, "notice", run.id, payload, known.record)
    with pytest.raises(VersionError, match="a notice record says 'dance', which this version does not know"):
        OwnersFolder(tmp_path).take([later.data], "the run's node")


def test_a_private_run_asks_an_older_version_for_an_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private_home(tmp_path)
    monkeypatch.setattr("paris_p2p.envelope.READER", 3)
    with pytest.raises(VersionError, match=r"asks for reader 4 or newer, this is reader 3; update paris-p2p"):
        OwnersFolder(tmp_path)
