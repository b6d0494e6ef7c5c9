"""The studio's observer finds what is there, in every form, and only that."""

from __future__ import annotations

import base64
import os
import struct
import subprocess
import sys
from pathlib import Path

from base58 import b58encode
from blake3 import blake3

from examples.studio.capture import LENGTH, streams
from examples.studio.memory import memory_of
from examples.studio.needles import Search, file_needles, hash_needle, number_needle, text_needle

NAME, DIGEST, LOSS = "Füchse über Berlin", blake3(b"a chunk").digest(), 1.0234567


def search() -> Search:
    return Search(
        [text_needle("name", NAME), hash_needle("hash", "chunk", DIGEST), number_needle("loss", LOSS)]
    )


def kinds(haystack: bytes) -> set[str]:
    return {needle.kind for needle in search().found_in(haystack)}


def test_a_word_is_found_in_every_form() -> None:
    raw = NAME.encode()
    forms = [
        raw,
        raw.hex().encode(),
        raw.hex().upper().encode(),
        NAME.encode("utf-16-le"),
        b"F\\u00fcchse \\u00fcber Berlin",
    ]
    forms += [base64.b64encode(b"x" * before + raw + b"yz") for before in range(5)]
    forms += [base64.urlsafe_b64encode(raw)]
    for form in forms:
        assert kinds(os.urandom(100) + form + os.urandom(100)) == {"name"}, form


def test_hashes_and_numbers_are_found_in_every_form() -> None:
    for form in (DIGEST, DIGEST.hex().encode(), b58encode(DIGEST), base64.b64encode(b"k" + DIGEST)):
        assert kinds(b"..." + form + b"...") == {"hash"}
    for form in (struct.pack(">d", LOSS), struct.pack("<d", LOSS), b"loss 1.0234567"):
        assert kinds(b"..." + form + b"...") == {"loss"}


def test_nothing_is_found_where_nothing_is() -> None:
    assert kinds(os.urandom(1 << 20)) == set()


def test_a_file_is_found_by_its_content_and_by_its_chunks_hashes(tmp_path: Path) -> None:
    path = tmp_path / "shard.tar"
    path.write_bytes(os.urandom(300_000))
    hunt = Search(file_needles("shard", path))
    assert {needle.kind for needle in hunt.found_in(b"." * 77 + path.read_bytes())} == {"shard"}
    assert {n.kind for n in hunt.found_in(blake3(path.read_bytes()).hexdigest().encode())} == {
        "hash of shard"
    }


def test_a_word_cut_in_two_by_packets_is_found_in_the_stream(tmp_path: Path) -> None:
    head = bytes(12) + b"\x08\x00" + b"\x45" + bytes(8) + b"\x06" + bytes(2) + bytes(8)
    packets = [
        head + b"\x00\x01\x00\x02" + bytes(8) + b"\x50" + bytes(7) + part
        for part in (NAME.encode()[:9], NAME.encode()[9:])
    ]
    path = tmp_path / "wire"
    path.write_bytes(b"".join(LENGTH.pack(len(packet)) + packet for packet in packets))
    assert list(streams(path)) == [NAME.encode()]


def test_a_word_in_another_process_memory_is_found() -> None:
    backwards = NAME.encode()[::-1].hex()  # so that it does not stand in the command line
    code = f"import sys; kept = bytes.fromhex({backwards!r})[::-1]; print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1) as child:
        assert child.stdout is not None
        child.stdout.readline()
        found = {needle.kind for piece in memory_of(child.pid) for needle in search().found_in(piece)}
        child.kill()
    assert found == {"name"}
