"""Hours of the week open and close by the clock on the wall, also on the days on which it is turned."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paris_p2p.weekly_hours import Window, is_open, next_change_s, window_in

BERLIN = ZoneInfo("Europe/Berlin")
NIGHT = window_in("22:00-07:00")


def moment(text: str, zone: tzinfo = BERLIN, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold).timestamp()


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("22:00-07:00", "22:00-07:00"),
        ("mon-fri 9:30 - 18:00", "Mon-Fri 09:30-18:00"),
        ("Sat,Sun 00:00-24:00", "Sat-Sun 00:00-24:00"),
        ("Fri-Mon 22:00-07:00", "Fri-Mon 22:00-07:00"),
        ("Monday,wed 1:00-2:00", "Mon,Wed 01:00-02:00"),
        ("Mon-Sun 01:00-02:00", "01:00-02:00"),
    ],
)
def test_hours_are_read_as_people_write_them_and_written_so_that_they_can_be_read(
    text: str, written: str
) -> None:
    assert str(window_in(text)) == written
    assert window_in(written) == window_in(text)


@pytest.mark.parametrize(
    "text",
    ["", "22-07", "22:00", "25:00-26:00", "24:00-07:00", "22:00-24:30", "07:00-07:00", "Mo 1:00-2:00x"],
)
def test_what_is_no_span_of_hours_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"write it like|begins when it ends|no day has"):
        window_in(text)


def test_a_day_that_is_none_is_named() -> None:
    with pytest.raises(ValueError, match="'Foo' for a day"):
        window_in("Foo 22:00-07:00")


def test_a_night_belongs_to_the_day_on_which_it_begins() -> None:
    windows = [window_in("Mon-Fri 22:00-07:00")]
    assert is_open(windows, moment("2026-11-28T06:59"), BERLIN)  # Saturday morning, of Friday's night
    assert not is_open(windows, moment("2026-11-28T22:30"), BERLIN)  # Saturday night
    assert not is_open(windows, moment("2026-11-30T06:59"), BERLIN)  # Monday morning, of Sunday's night
    assert next_change_s(windows, moment("2026-11-28T07:00"), BERLIN) == moment("2026-11-30T22:00")


def test_the_night_in_which_the_clock_is_turned_forward_is_an_hour_shorter() -> None:
    evening, morning = moment("2027-03-27T22:00"), moment("2027-03-28T07:00")
    assert next_change_s([NIGHT], evening, BERLIN) == morning
    assert morning - evening == 8 * 3600


def test_the_night_in_which_the_clock_is_turned_back_is_an_hour_longer() -> None:
    evening, morning = moment("2026-10-24T22:00"), moment("2026-10-25T07:00")
    assert next_change_s([NIGHT], evening, BERLIN) == morning
    assert morning - evening == 10 * 3600


def test_a_window_that_begins_in_the_hour_left_out_begins_when_the_clock_was_turned() -> None:
    windows, turned = [window_in("02:30-05:00")], moment("2027-03-28T03:00")
    assert next_change_s(windows, turned - 3600, BERLIN) == turned
    assert is_open(windows, turned, BERLIN)
    assert not is_open(windows, turned - 1, BERLIN)


def test_an_hour_that_comes_twice_is_twice_in_its_window() -> None:
    windows = [window_in("02:00-02:30")]
    first, second = moment("2026-10-25T02:00"), moment("2026-10-25T02:00", fold=1)
    changes, now_s = [], first - 60
    for _ in range(4):
        now_s = next_change_s(windows, now_s, BERLIN) or 0
        changes.append(now_s)
    assert changes == [first, first + 1800, second, second + 1800]


def test_what_is_always_open_or_never_changes_never() -> None:
    whole = [window_in("00:00-24:00")]
    assert is_open(whole, 0.0, UTC)
    assert next_change_s(whole, 0.0, UTC) is None
    assert next_change_s([], 0.0, UTC) is None


WINDOWS = st.lists(
    st.builds(
        Window,
        st.frozensets(st.integers(0, 6), min_size=1),
        st.integers(0, 95).map(lambda quarter: 15 * quarter),
        st.integers(1, 96).map(lambda quarter: 15 * quarter),
    ).filter(lambda window: window.from_min != window.to_min),
    min_size=1,
    max_size=3,
)
# Lord Howe turns its clocks by half an hour, Apia left out a whole day in 2011.
ZONES = st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "UTC"])
TURNS = st.sampled_from(["2026-10-24", "2027-03-27", "2026-11-01", "2011-12-28", "2026-04-04", "2026-07-01"])


@given(WINDOWS, ZONES, TURNS, st.integers(0, 3 * 96))
def test_nothing_changes_before_the_next_change_and_then_it_does(
    windows: list[Window], name: str, day: str, quarter: int
) -> None:
    zone = ZoneInfo(name)
    now_s = datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() + 900.0 * quarter
    now_open, change_s = is_open(windows, now_s, zone), next_change_s(windows, now_s, zone)
    until_s = change_s if change_s is not None else now_s + 8 * 86400
    steps = range(int(now_s), min(int(until_s), int(now_s) + 2 * 86400), 900)
    assert all(is_open(windows, step, zone) == now_open for step in steps)
    if change_s is not None:
        assert is_open(windows, change_s, zone) != now_open
        assert is_open(windows, change_s - 1, zone) == now_open


@given(WINDOWS)
def test_what_is_written_is_read_again(windows: list[Window]) -> None:
    assert [window_in(str(window)) for window in windows] == windows
