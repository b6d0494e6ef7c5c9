"""Turns bytes into text by one rule for all captions: UTF-8, marked UTF-16 or 32, or what the owner names.

Nothing is guessed: detectors take `è` in a short cp1252 text for `č` of cp1250, and nobody would see it.
"""

from __future__ import annotations

import codecs
import unicodedata
from dataclasses import dataclass

from paris_p2p.errors import UsageError
from paris_p2p.weights import MAX_CAPTION_CHARACTERS

_MARKS = (  # UTF-32's little-endian mark begins with UTF-16's
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_EXAMPLE = "cp1252"
_SHOWN_CHARACTERS = 40
_NUL_SHARE = 10  # more than one NUL in so many characters means UTF-16 without a mark, or no text


class NotTextError(ValueError):
    """Says that bytes are not text by the rule, what they may be and what to do."""


@dataclass(frozen=True)
class Decoded:
    """Holds a text, and what was done to get it; `converted_from` is empty for Unicode."""

    text: str
    converted_from: str = ""


def check_encoding(name: str) -> str:
    """Returns the encoding's own name, empty for none; UsageError when Python knows no such text encoding."""
    if not name:
        return ""
    try:
        found = codecs.lookup(name)
        "a".encode(name)
    except (LookupError, UnicodeError, ValueError) as error:
        raise UsageError(
            f"--caption-encoding {name!r} is not an encoding known here; "
            "name one such as cp1252, cp1251, shift_jis, gb18030 or utf-16-le"
        ) from error
    return found.name


def decode_text(data: bytes, encoding: str = "") -> Decoded:
    """Returns the text of a file's bytes, read by `encoding` where they are not Unicode.

    NotTextError otherwise.
    """
    for mark, name in _MARKS:
        if data.startswith(mark):
            try:
                return Decoded(data[len(mark) :].decode(name))
            except UnicodeDecodeError as error:
                raise NotTextError(
                    f"it is marked as {name} and is wrong at byte {error.start + len(mark)}; save it as UTF-8"
                ) from error
    at = 0
    try:
        text = data.decode()
        if text.count("\0") * _NUL_SHARE <= len(text):
            return Decoded(text)
    except UnicodeDecodeError as error:
        at = error.start
    if encoding:
        try:
            return Decoded(data.decode(encoding), encoding)
        except UnicodeDecodeError as error:
            raise NotTextError(
                f"it is neither UTF-8 nor {encoding} (byte {error.start}); save it as UTF-8"
            ) from error
    guess = _wide_guess(data) or _EXAMPLE
    reads = " ".join(data.decode(guess, "replace")[:_SHOWN_CHARACTERS].split())
    raise NotTextError(
        f"byte {at} is not UTF-8; "
        f"save it as UTF-8, or name its encoding: --caption-encoding {guess} would read it as {quoted(reads)}"
    )


def _wide_guess(data: bytes) -> str:
    """Returns the kind of UTF-16 that has its zeros where these bytes have them; empty for neither."""
    odd, even = data[1::2].count(0), data[::2].count(0)
    return "utf-16-le" if odd > even else "utf-16-be" if even > odd else ""


def clean_caption(text: str) -> tuple[str, list[str]]:
    """Returns (one line without what no encoder reads, what was done to it beyond joining lines)."""
    done: list[str] = []
    if any("\ud800" <= c <= "\udfff" for c in text):
        try:
            # Two halves side by side are one character.
            text = text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            text = "".join("\N{REPLACEMENT CHARACTER}" if "\ud800" <= c <= "\udfff" else c for c in text)
            done.append("half characters replaced in the caption")
    marks = "\ufeff\ufffe\uffff"
    plain = "".join(
        " " if c in marks or (unicodedata.category(c) == "Cc" and not c.isspace()) else c for c in text
    )
    if plain.strip() != text.lstrip("\ufeff").strip():
        done.append("control characters left out of the caption")
    line = " ".join(plain.split())
    if len(line) > MAX_CAPTION_CHARACTERS:
        done.append(f"caption cut to {MAX_CAPTION_CHARACTERS} characters")
        line = line[:MAX_CAPTION_CHARACTERS]
    return line, done


def quoted(text: str) -> str:
    """Quotes a text from a file as a message can hold it: without control characters and half ones."""
    return ascii(text) if not text.isprintable() else repr(text)
