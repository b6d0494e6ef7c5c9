import pytest

from paris_p2p.data.captions import Caption
from paris_p2p.data.text_files import NotTextError
from paris_p2p.data.timed_captions import TimedCaption, parse_subtitles, timed_rows

SRT = "1\n00:00:01,000 --> 00:00:02,500\n<i>A fox</i>\nruns\n\n2\n00:01:03,000 --> 00:01:04,000\nsnow\n"
VTT = (
    "WEBVTT\n\nNOTE a remark\n\n00:01.000 --> 00:02.500 align:start\nA <b>fox</b>\nruns\n"
    "\n01:03.000 --> 01:04.000\nsnow\n"
)
CUES = (TimedCaption(1.0, 2.5, "A fox runs"), TimedCaption(63.0, 64.0, "snow"))


@pytest.mark.parametrize("text", [SRT, VTT, SRT.replace("\n", "\r\n"), "\ufeff" + SRT])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_subtitles_are_captions_by_time(text, encoding):
    assert parse_subtitles(text.encode(encoding), "film.srt") == (CUES, [])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "WEBVTT\n\n",
        SRT.replace("--> 00:01:04,000", "--> "),
        SRT + "\n3\n00:02:00,000 --> 1\nlost\n",
    ],
)
def test_subtitles_of_which_a_part_cannot_be_read_are_refused(text):
    with pytest.raises(NotTextError, match=r"film\.srt"):
        parse_subtitles(text.encode(), "film.srt")


def test_rows_with_a_start_are_captions_by_time_and_last_until_the_next():
    rows = [Caption("b", start="0:10", end="12,5"), Caption("a", start="0"), Caption("c", start="1:00:00.5")]
    assert timed_rows(rows, "film.mp4") == (
        TimedCaption(0.0, 10.0, "a"),
        TimedCaption(10.0, 12.5, "b"),
        TimedCaption(3600.5, float("inf"), "c"),
    )


def test_what_is_no_time_or_ends_before_it_begins_is_refused():
    with pytest.raises(NotTextError, match="'soon' is not a time; write seconds"):
        timed_rows([Caption("a", start="soon")], "film.mp4")
    with pytest.raises(NotTextError, match="from 5 to 3 s"):
        timed_rows([Caption("a", start="5", end="3")], "film.mp4")
