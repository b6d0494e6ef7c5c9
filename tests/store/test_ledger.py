"""The ledger: a value is there whole or not at all, whatever call of the system the crash comes at."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paris_p2p.errors import StoreError
from paris_p2p.store.ledger import Ledger

KEY = "attested/expert-0/3/7"


class Crash(BaseException):
    """The process ends here: nothing after it runs, not even an `except OSError`."""


def crash_at(patch: pytest.MonkeyPatch, number: int) -> Callable[[], int]:
    """Let call `number` of the calls that change a disk crash before it acts, and those of a torn write
    half-way.
    """
    calls = 0

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls >= number:  # nothing that tidies up after the crash acts either
                raise Crash
            return real(*args, **more)

        return call

    for name in ("fsync", "replace", "rename"):
        patch.setattr(os, name, counted(getattr(os, name)))
    patch.setattr(os, "unlink", counted(os.unlink))
    real_fdopen = os.fdopen

    def torn_open(descriptor: int, *args: Any) -> Any:
        file = real_fdopen(descriptor, *args)
        real_write = file.write

        class Torn:
            def __getattr__(self, name: str) -> Any:
                return getattr(file, name)

            def __enter__(self) -> Torn:
                return self

            def __exit__(self, *_: object) -> None:
                file.close()

            def write(self, data: bytes) -> None:
                nonlocal calls
                calls += 1
                if calls == number:
                    real_write(data[: len(data) // 2])
                    file.flush()
                    raise Crash
                real_write(data)

        return Torn()

    patch.setattr(os, "fdopen", torn_open)
    return lambda: calls


@pytest.mark.parametrize("before", [None, b"the old value"])
def test_a_crash_at_any_call_leaves_the_old_value_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bytes | None
) -> None:
    new, number, crashed = b"the new value, which is longer", 0, True
    while crashed:
        number += 1
        ledger = Ledger(tmp_path / str(number))
        if before is not None:
            ledger.put(KEY, before)
        with monkeypatch.context() as patch:
            crash_at(patch, number)
            try:
                ledger.put(KEY, new)
                crashed = False
            except Crash:
                crashed = True
        again = Ledger(tmp_path / str(number))
        assert again.get(KEY) in (before, new)
        assert [key for key, _ in again.items()] in ([], [KEY])
        again.put(KEY, b"and on")
        assert again.get(KEY) == b"and on"
    assert number > 4  # write, fsync, rename, fsync of the directory were all crashed at


def test_a_value_is_synced_before_it_gets_its_name_and_its_name_before_put_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, order = Ledger(tmp_path / "ledger"), []
    real_fsync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: (order.append("sync"), real_fsync(number))[1])
    monkeypatch.setattr(
        os, "replace", lambda *paths, **more: (order.append("name"), real_replace(*paths, **more))[1]
    )
    ledger.put(KEY, b"value")
    assert order == ["sync", "name", "sync"]


def test_values_are_found_by_the_start_of_their_keys(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for key in ("tip/expert-1/0", "tip/expert-10/0", "seq/card/run", KEY):
        ledger.put(key, key.encode())
    assert list(ledger.items("tip/")) == [
        ("tip/expert-1/0", b"tip/expert-1/0"),
        ("tip/expert-10/0", b"tip/expert-10/0"),
    ]
    assert len(list(ledger.items())) == 4
    ledger.delete(KEY)
    ledger.delete(KEY)
    assert ledger.get(KEY) is None


def test_files_of_others_in_the_folder_are_passed_over(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.put(KEY, b"value")
    for name in (".DS_Store", "seq.1234-1.tmp", "NOTES", "%2e%2e%2f"):
        (tmp_path / name).write_bytes(b"no value")
    assert list(ledger.items()) == [(KEY, b"value")]


@pytest.mark.parametrize(
    "key",
    ["", "/", "../x", "a/../../b.c", "A", "a" * 201, "a" + "/b" * 90, "a\0", "a\n", "ä", ".tmp", "a.tmp"],
)
def test_only_plain_names_are_keys(tmp_path: Path, key: str) -> None:
    ledger = Ledger(tmp_path)
    with pytest.raises(StoreError, match="not a ledger key"):
        ledger.put(key, b"")
    with pytest.raises(StoreError, match="not a ledger key"):
        ledger.get(key)


@settings(max_examples=20)
@given(
    st.dictionaries(
        st.from_regex(r"[a-z0-9][a-z0-9/_-]{0,40}", fullmatch=True), st.binary(max_size=50), max_size=6
    )
)
def test_what_is_put_is_what_is_got(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, bytes]
) -> None:
    path = tmp_path_factory.mktemp("ledger")
    for key, value in values.items():
        Ledger(path).put(key, value)
    assert dict(Ledger(path).items()) == values


def test_a_value_is_kept_without_a_look_at_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(tmp_path)
    looks = []
    for name in ("scandir", "listdir"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *path, real=real: looks.append(path) or real(*path))
    ledger.put(KEY, b"value")
    assert ledger.get(KEY) == b"value"
    assert not looks
