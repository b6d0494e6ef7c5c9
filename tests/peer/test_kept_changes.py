"""What was set lasts over restarts, until a later start says otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paris_p2p.peer.kept_changes import SET_FILE, SETTABLE, KeptChanges, kept_changes
from paris_p2p.peer_settings import PeerSettings


def started(folder: Path, **fields: object) -> PeerSettings:
    return PeerSettings.model_validate({"data_dir": folder, **fields})


def test_what_was_set_wins_over_the_words_of_the_start_it_was_set_in(tmp_path: Path) -> None:
    first, origins = started(tmp_path, upload_limit_bytes_per_s="5MB"), {"upload_limit": "--upload-limit"}
    kept_changes(first, origins).with_words({"upload_limit": "2MB", "hours": "22:00-7:00"}).write()
    again = kept_changes(first, origins)  # a service is started with the same words each time
    assert again.settings.upload_limit_bytes_per_s == 2_000_000
    assert again.settings.hours == ("22:00-07:00",)
    assert again.all_origins["upload_limit"] == "paris-peer set"


def test_a_later_start_with_another_word_wins(tmp_path: Path) -> None:
    first = started(tmp_path, upload_limit_bytes_per_s="5MB")
    kept_changes(first, {"upload_limit": "--upload-limit"}).with_words({"upload_limit": "2MB"}).write()
    later = kept_changes(
        started(tmp_path, upload_limit_bytes_per_s="9MB"), {"upload_limit": "PARIS_UPLOAD_LIMIT"}
    )
    assert later.settings.upload_limit_bytes_per_s == 9_000_000


def test_a_profile_that_reads_the_machine_anew_is_no_other_word(tmp_path: Path) -> None:
    origins = {"max_disk": "profile auto"}
    kept_changes(started(tmp_path, max_disk_bytes=10**9), origins).with_words({"max_disk": "2GB"}).write()
    assert kept_changes(started(tmp_path, max_disk_bytes=10**8), origins).settings.max_disk_bytes == 2 * 10**9


def test_an_empty_value_takes_back_what_was_set(tmp_path: Path) -> None:
    kept = kept_changes(started(tmp_path, nice=3), {}).with_words({"nice": "9"})
    kept.write()
    assert kept.settings.nice == 9
    back = kept.with_words({"nice": ""})
    back.write()
    assert back.settings.nice == 3
    assert not (tmp_path / SET_FILE).exists()


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"nice": 3}', '{"nice": {"value": "99"}}', '{"who": {"value": "1"}}']
)
def test_a_damaged_file_changes_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / SET_FILE).write_text(text)
    assert kept_changes(started(tmp_path), {}).settings == started(tmp_path)


@settings(max_examples=25)
@given(
    st.fixed_dictionaries(
        {
            "upload_limit_bytes_per_s": st.integers(0, 10**15),
            "max_disk_bytes": st.integers(0, 10**15),
            "nice": st.integers(0, 19),
            "on_battery": st.booleans(),
            "only_idle_s": st.integers(0, 86400).map(float),
            "max_gpu_temp_c": st.integers(0, 150).map(float),
        }
    )
)
def test_every_value_that_is_shown_can_be_set(fields: dict[str, object]) -> None:
    kept = KeptChanges(started(Path("x"), **fields), {}, {})
    shown = {row.key: row.value for row in kept.rows()}
    assert set(shown) == set(SETTABLE)
    again = KeptChanges(started(Path("x")), {}, {}).with_words(
        {key: value for key, value in shown.items() if value}
    )
    for name, value in fields.items():
        assert getattr(again.settings, name) == value
