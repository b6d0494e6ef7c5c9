"""An invite out of a mail, a chat or an editor is the invite; what is none is refused with the part that
is wrong.
"""

from __future__ import annotations

import io
import sys
import textwrap
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paris_p2p.cli.console import read_invite
from paris_p2p.errors import InviteError, UsageError
from paris_p2p.identity import Identity
from paris_p2p.invite import Invite
from paris_p2p.pasted import invites_in

RUN = "0123456789abcdef" * 4
PEERS = tuple(
    f"/{host}/{end}/p2p/{Identity.from_private_bytes(bytes([number]) * 32).peer_id}"
    for number, (host, end) in enumerate(
        [("ip4/203.0.113.7", "tcp/31337"), ("dns4/b.example.org", "udp/31337/quic-v1")]
    )
)
INVITE = Invite(run=RUN, peers=PEERS)
TEXT = str(INVITE)


def wrapped(width: int, mark: str = "") -> str:
    lines = textwrap.wrap(TEXT, width, break_on_hyphens=False)
    return "\n".join(mark + line for line in lines)


PASTED = {
    "as it is": TEXT,
    "double quotes": f'"{TEXT}"',
    "single quotes": f"'{TEXT}'",
    "typographic quotes": f"\u201c{TEXT}\u201d",
    "guillemets": f"«{TEXT}»",
    "code": f"`{TEXT}`",
    "angle brackets": f"<{TEXT}>",
    "a markdown link": f"[join]({TEXT})",
    "a sentence": f"Hello, here it is: {TEXT}. See you!",
    "a question": f"Did you get {TEXT}?",
    "a comma": f"{TEXT}, thanks",
    "words after it on the next line": f"{TEXT}\nThanks\nBob",
    "a signature": f"{TEXT}\n-- \nBob",
    "line breaks": wrapped(40),
    "short lines": wrapped(23),
    "windows' line breaks": wrapped(60).replace("\n", "\r\n"),
    "a quoted mail": wrapped(50, "> "),
    "a mail quoted twice": wrapped(50, ">> "),
    "angle brackets over lines": f"<{wrapped(60)}>",
    "spaces around": f"\t {TEXT} \n\n",
    "a byte order mark": f"\ufeff{TEXT}",
    "zero-width spaces": TEXT.replace("&", "\u200b&"),
    "soft hyphens": TEXT[:30] + "\u00ad" + TEXT[30:],
    "html": TEXT.replace("&", "&amp;"),
    "an html link": f'<a href="{TEXT.replace("&", "&amp;")}">join</a>',
    "quoted-printable": TEXT.replace("=", "=3D")[:70] + "=\n" + TEXT.replace("=", "=3D")[70:],
    "escaped whole": quote(TEXT, safe=""),
    "escaped twice": quote(quote(TEXT, safe=""), safe=""),
    "its question mark escaped": TEXT.replace("?", "%3F"),
    "its addresses escaped": f"paris:{RUN}?" + "&".join(f"peer={quote(peer, safe='')}" for peer in PEERS),
    "in a link of a tracker": f"https://mail.example/redirect?to={quote(TEXT, safe='')}",
}


@pytest.mark.parametrize("how", PASTED)
def test_it_is_still_the_invite(how: str) -> None:
    assert Invite.parse(PASTED[how]) == INVITE


@pytest.mark.parametrize("width", range(8, len(TEXT)))
def test_wherever_a_mail_breaks_the_line_it_is_the_whole_invite(width: int) -> None:
    assert Invite.parse(TEXT[:width] + "\n" + TEXT[width:]) == INVITE


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1"])
@pytest.mark.parametrize("stdin", [False, True])
def test_a_file_or_a_pipe_in_any_usual_encoding_holds_it(
    encoding: str, stdin: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = f"«{wrapped(64)}»\r\n".encode(encoding)
    (tmp_path / "invite.txt").write_bytes(data)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert Invite.parse(read_invite("-" if stdin else f"@{tmp_path / 'invite.txt'}")) == INVITE


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "looks like paris:"),
        ("hello", "looks like paris:"),
        ("paris:1234?peer=x", "64 hex digits"),
        (TEXT[:50], "64 hex digits"),
        (TEXT.replace("31337", "99999"), "multiaddr"),
        (TEXT[:-4], "multiaddr"),
        ("paris:" * 5000, "64 hex digits"),
    ],
)
def test_what_is_cut_or_none_says_which_part(text: str, says: str) -> None:
    with pytest.raises(InviteError, match=says):
        Invite.parse(text)


@given(st.text(max_size=200), st.text(max_size=200))
def test_any_text_around_it_gives_that_invite_or_a_refusal(before: str, after: str) -> None:
    try:
        found = Invite.parse(f"{before} {TEXT} {after}")
    except InviteError:
        return
    assert found.run == RUN or "paris:" in before
    assert len(list(invites_in(before))) < 2000


def test_a_path_where_an_invite_is_wanted_is_named(tmp_path: Path) -> None:
    (tmp_path / "inv").write_text(TEXT)
    with pytest.raises(InviteError, match="is a folder, where an invite"):
        read_invite(str(tmp_path))
    with pytest.raises(InviteError, match=f"write @{tmp_path / 'inv'}"):
        read_invite(str(tmp_path / "inv"))


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "inv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not a text file"):
        read_invite(f"@{tmp_path / 'inv'}")
