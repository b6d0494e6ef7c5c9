"""Reads an invite as people paste it: quoted, wrapped, escaped by mails and chats, with words around it.

Nothing here trusts it.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterator
from urllib.parse import unquote

START = "paris:"
MAX_LETTERS = 1 << 16  # of a mail that holds it; an invite has hundreds
MAX_PIECES = 200  # of one that was wrapped
_ESCAPED_START = re.compile(r"paris%(?:25)?3a", re.IGNORECASE)
_LETTERS = re.compile(r"[A-Za-z0-9%?&=/.:_\-\[\]]+")
_QUOTE_MARK = re.compile(r"(?m)^[ \t]*(?:>[ \t]*)+")
_SOFT_BREAK = re.compile(r"=[ \t]*\r?\n")
_WHOLE = re.compile(
    r"^paris:[0-9a-f]{64}$|/p2p/(12D3Koo[1-9A-HJ-NP-Za-km-z]{45}|Qm[1-9A-HJ-NP-Za-km-z]{44})$"
)
_ENDS_OPEN = ("?", "&", "=", "/", ":", "%", ".")
_CONTINUES = ("?", "&", "/", "=", "%")


def decode_pasted(data: bytes) -> str:
    """Decodes a small text file that any program wrote; UnicodeDecodeError.

    It may be UTF-8 or UTF-16, with its mark or without.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16")
    for encoding in ("utf-16-le", "utf-16-be"):  # without a mark
        if (place := data.find(START.encode(encoding))) >= 0 and place % 2 == 0:
            return data.decode(encoding)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        if START.encode() not in data:
            raise
        return data.decode("latin-1")  # an old editor's quotation marks around it


def invites_in(text: str) -> Iterator[str]:
    """Lists what the invite in a text may be, the likeliest first: parse them in turn.

    An invite holds no space, so a break inside is a mail's wrapping, and whatever follows it is not its
    own.
    """
    text = _plain(text[:MAX_LETTERS])
    begin = text.find(START)
    if begin < 0:
        return
    pieces = [piece for piece in text[begin:].split() if piece][:MAX_PIECES]
    joined, whole = "", False
    wrapped: list[str] = []
    for piece in pieces:
        match = _LETTERS.match(piece)
        if match is None or (wrapped and piece.startswith(START)):
            break
        if wrapped and not (
            joined.endswith(_ENDS_OPEN) or piece.startswith(_CONTINUES) or not _complete(joined)
        ):
            break
        joined += match[0]
        wrapped.append(joined)
        whole = match.end() == len(piece)
        if not whole:
            break  # a closing quote or bracket
    yield from dict.fromkeys(ended for one in reversed(wrapped) for ended in _ends(one))


def _complete(joined: str) -> bool:
    """Says whether an invite could end here: a whole run id, and after it a whole peer id."""
    return _WHOLE.search(unquote(joined)) is not None


def _ends(joined: str) -> Iterator[str]:
    """Yields a text with and without a sentence's own punctuation at the end.

    Escapes are undone where only they are in the way.
    """
    bare = joined.rstrip("?&.:,;-_[]=/")
    for one in (joined, bare):
        yield one
        for _ in range(2):
            one = unquote(one)
            yield one


def _plain(text: str) -> str:
    """Removes what cannot be seen, a mail's quote marks, its soft breaks and HTML's escapes."""
    text = "".join(letter for letter in text if unicodedata.category(letter) != "Cf")
    text = _QUOTE_MARK.sub("", text)
    if re.search(r"=3[dD]", text):
        text = re.sub(r"=3[dD]", "=", _SOFT_BREAK.sub("", text))
    if START not in text and _ESCAPED_START.search(text):
        text = unquote(unquote(text))
    return html.unescape(text) if "&amp;" in text or "&#" in text else text
