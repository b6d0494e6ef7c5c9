"""Indexes uncompressed tars of plain files, which may come from anybody (ustar, POSIX.1-1988)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from paris_p2p.errors import DataError

_BLOCK = 512
_MAX_NAME_CHARS = 256
_MAX_PAX_BYTES = 64 << 10


def tar_members(path: Path) -> Iterator[tuple[str, int, int]]:
    """Yields (name, offset of its bytes, size in bytes) of each plain file in an uncompressed tar.

    DataError when the file is not such a tar.
    """
    try:
        with path.open("rb") as file:
            descriptor, end = file.fileno(), os.fstat(file.fileno()).st_size
            at = 0
            while at + _BLOCK <= end:
                header = os.pread(descriptor, _BLOCK, at)
                if header == bytes(_BLOCK):
                    return
                kind, name, size_bytes = _parse_header(path, header, at)
                start = at + _BLOCK
                if size_bytes > end - start:
                    raise DataError(
                        f"{path}: {name[:80]!r} claims {size_bytes} bytes where {end - start} are left; "
                        "the file is cut or damaged"
                    )
                if kind in b"0\0":
                    yield name, start, size_bytes
                elif kind in b"xg":
                    _refuse_overrides(path, os.pread(descriptor, min(size_bytes, _MAX_PAX_BYTES + 1), start))
                elif kind != b"5":
                    raise DataError(
                        f"{path}: {name[:80]!r} is of tar type {kind!r}; a shard holds plain files only"
                    )
                at = start + -(-size_bytes // _BLOCK) * _BLOCK
    except OSError as error:
        raise DataError(f"cannot read the shard {path}: {error.strerror}") from error


def _parse_header(path: Path, header: bytes, at: int) -> tuple[bytes, str, int]:
    checksum = sum(header[:148]) + 8 * 32 + sum(header[156:])
    try:
        if int(header[148:156].strip(b"\0 "), 8) != checksum:
            raise ValueError("its checksum is wrong")
        digits = header[124:136].strip(b"\0 ")
        if not digits.isdigit():  # GNU's binary sizes are for files over 8 GB: no clip is one
            raise ValueError("its size is not octal digits")
        size_bytes = int(digits, 8)
        posix = header[257:262] == b"ustar" and header[257:265] != b"ustar  \0"
        prefix = header[345:500].split(b"\0")[0] if posix else b""
        name = b"/".join(part for part in (prefix, header[:100].split(b"\0")[0]) if part).decode("utf-8")
        if not name or len(name) > _MAX_NAME_CHARS:
            raise ValueError("its name is empty or too long")
    except ValueError as error:
        raise DataError(f"{path} is not a tar: the header at byte {at} is wrong ({error})") from error
    return header[156:157], name, size_bytes


def _refuse_overrides(path: Path, records: bytes) -> None:
    """Refuses extended headers that rename or resize files, which would need unpacking rules.

    Times and owners in them are ignored.
    """
    words = (b" path=", b" size=", b" GNU.sparse")
    if len(records) > _MAX_PAX_BYTES or any(word in records for word in words):
        raise DataError(
            f"{path} has an extended header that renames or resizes its files; "
            "write shards with short plain names"
        )
