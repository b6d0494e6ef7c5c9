"""What a machine's own transfers show of its line."""

from __future__ import annotations

from paris_p2p.peer.uplink import line_rate, steady_rate


def test_ten_seconds_of_chunks_at_one_rate_show_the_line() -> None:
    looks = [line_rate(rate, 1.0, 1.0) for rate in (480e3, 500e3, 520e3) * 4]
    assert steady_rate(looks[:10]) == sum(looks[:10]) / 10
    assert steady_rate(looks[:9]) == 0


def test_small_answers_that_trickle_do_not_make_the_line_look_slow() -> None:
    assert steady_rate([line_rate(3e3, 0.01, 1.0)] * 10) == 0


def test_a_pause_or_a_beginning_among_the_looks_says_nothing() -> None:
    full = line_rate(500e3, 1.02, 1.02)
    assert steady_rate([full] * 9 + [line_rate(500e3, 0.5, 1.0)]) == 0
    assert steady_rate([line_rate(100e3, 1.0, 1.0)] + [full] * 9) == 0
