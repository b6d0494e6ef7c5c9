"""Text for a person's eyes: what others chose cannot steer the terminal, and no encoding makes it fail.

Names, purposes, captions, reasons and errors hold words of strangers. Escape sequences move the cursor,
bidirectional overrides turn lines round (Unicode Technical Report 36), invisible letters hide differences:
none of them is shown.
"""

from __future__ import annotations

import codecs
import errno
import logging
import os
import re
import sys
import time
import unicodedata
from contextlib import suppress
from functools import lru_cache
from typing import TextIO

SAID = "paris_p2p.said"  # the logger of what `say` has printed already
said = logging.getLogger(SAID)
LINE_LETTERS = 500  # of one line that others may have a say in
FIELD_LETTERS = 80  # of one name in a table or a sentence
MAX_MARKS = 3  # accents on one letter; more would climb into the lines above
INSTEAD = "\N{REPLACEMENT CHARACTER}"
_CUT = "…"
# controls, formats (bidi, zero width), halves of pairs, unknown ones
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})
_BLANKS = frozenset("\u115f\u1160\u2800\u3164\uffa0")  # letters by name, and nothing to see
_WIDE = re.compile(r"(?<=\S) {40,}")  # no column of ours: it would push what follows into a row of its own
_PLAIN = re.compile(r"[ -~]*")
_ERRORS = "paris_shown"
_ASCII = {
    "…": "...",
    "–": "-",
    "—": "-",
    "×": "x",
    "·": ".",
    "’": "'",
    "‘": "'",
    "“": '"',
    "”": '"',
    "→": "->",
    "│": "|",
    "─": "-",
    INSTEAD: "?",
}


def shown(text: object, letters: int = LINE_LETTERS) -> str:
    """Returns one line of at most `letters` characters.

    Runs of space are one space, what cannot be seen or steers is �. It is safe to print wherever plain
    text is. It is not markup: hand it to rich as Text, to HTML through escaping.
    """
    whole = str(text)
    line = " ".join(_visible(whole[: 4 * letters]).split(" "))
    line = re.sub(r" {2,}", " ", line).strip()
    return line if len(line) <= letters and len(whole) <= 4 * letters else line[: letters - 1].rstrip() + _CUT


def shown_lines(text: object) -> str:
    """Returns several lines of our own making, with words of others in them.

    They are treated as by `shown`, with indents, columns and lengths kept.
    """
    return "\n".join(_WIDE.sub(" ", _visible(line).rstrip()) for line in str(text).split("\n"))


def ready_streams(*streams: TextIO) -> None:
    """Lets streams write as ASCII what their encoding has no letter for.

    Standard output and error when none are named.
    """
    codecs.register_error(_ERRORS, _in_ascii)
    for stream in streams or (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a test's or a notebook's stream is not always a TextIOWrapper
            stream.reconfigure(errors=_ERRORS)


def put(text: str, stream: TextIO | None = None) -> None:
    """Prints, and goes on without a reader when the terminal or the pipe is closed.

    What runs here must still end in order.
    """
    stream = stream or sys.stdout
    try:
        print(text, file=stream, flush=True)
    except OSError as error:
        if error.errno not in (errno.EIO, errno.EPIPE):
            raise
        lose_closed_terminal()
        _to_nowhere(stream)


def say(line: str) -> None:
    """Prints a stamped line for the person who watches a long-running command, and logs it."""
    said.info("%s", line)
    put(f"{time.strftime('%H:%M:%S')} {shown(line)}")


def lose_closed_terminal() -> None:
    """Sends, after a hang-up, to nowhere what is still written to the terminal that is gone."""
    for descriptor in (1, 2):
        try:
            os.get_terminal_size(descriptor)
        except OSError as error:
            if error.errno == errno.EIO:  # another number: a file, a pipe, or closed before
                with open(os.devnull, "wb") as nowhere:
                    os.dup2(nowhere.fileno(), descriptor)


def _to_nowhere(stream: TextIO) -> None:
    with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def _visible(text: str) -> str:
    """Returns the text with spaces for every kind of blank, and � for what is not to be seen."""
    if _PLAIN.fullmatch(text):
        return text
    kept, marks = [], 0
    for letter in text:
        seen, marks = _see(letter), marks + 1 if unicodedata.combining(letter) else 0
        if marks <= MAX_MARKS:
            kept.append(seen)
    return "".join(kept)


@lru_cache(maxsize=4096)
def _see(letter: str) -> str:
    category = unicodedata.category(letter)
    if category in ("Zs", "Zl", "Zp") or letter in "\t\n\v\f\r\x85" or letter in _BLANKS:
        return " "
    return INSTEAD if category in _HIDDEN else letter


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    """Returns what stands for letters that an encoding lacks: plain relatives, else their numbers."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    return "".join(
        _ASCII.get(letter) or letter.encode("ascii", "backslashreplace").decode() for letter in letters
    ), error.end
