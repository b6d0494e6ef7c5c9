"""What a person sees of a running peer, in a terminal of any width."""

from __future__ import annotations

import asyncio

import pytest
from rich.console import Console

from paris_p2p.errors import DaemonError
from paris_p2p.node.governance import Governance, NoticeStatus
from paris_p2p.node.status import SlotStatus, Status, TrainingStatus
from paris_p2p.peer.view import _SAY_AGAIN_S, _fitted, draw
from paris_p2p.peer.view import Console as View
from paris_p2p.swarm.asking import end_tasks

SLOTS = tuple(
    SlotStatus(
        slot=name,
        lead="12D3KooW9vug3AtaGFBnXRVRDan6a8NjvZVEhLsrSz1Rf5a1sfyf",
        epoch=1,
        tip="a2c5ba743c5c5c0d",
        tip_epoch=1,
        tip_seq=11,
        tip_age_s=132.0,
        clips=111_200,
        steps=6_950,
        loss=1.512,
        attestations=1,
        pending=1,
    )
    for name in ("expert-0", "expert-1", "router")
)
STATUS = Status(
    at=0.0,
    run="057f16b9daf811c9",
    name="my style",
    owner="o",
    peer_id="p",
    role="peer",
    phase="idle",
    why="",
    slots=SLOTS,
    peers=(),
)


def shown(width: int, status: Status = STATUS) -> str:
    console = Console(width=width, force_terminal=False)
    with console.capture() as capture:
        console.print(draw(status))
    return capture.get()


def test_a_terminal_of_eighty_columns_shows_the_whole_table():
    lines = shown(80).splitlines()
    rows = [line.split() for line in lines if line.startswith(("expert-", "router"))]
    assert [row[0] for row in rows] == ["expert-0", "expert-1", "router"]
    assert all(
        row[1:] == ["…f5a1sfyf", "1", "a2c5ba", "#11", "132", "s", "6,950", "111,200", "1.5120", "1", "1"]
        for row in rows
    )


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_no_figure_of_the_machine_is_broken_in_two(width: int) -> None:
    status = STATUS.model_copy(
        update={"disk_bytes": 28_500_000, "memory_bytes": 497_400_000, "uploaded_bytes": 2_100_000}
    )
    lines = shown(width, status).splitlines()
    for figure in ("up 2.1 MB (0 B/s)", "down 0 B (0 B/s)", "disk 28.5 MB", "memory 497.4 MB", "attested 0"):
        assert sum(figure in line for line in lines) == 1, figure


def test_a_low_terminal_shows_the_newest_lines_under_the_table() -> None:
    news = [
        f"13:49:2{number} claiming expert-{number}: {'the least trained of 2 slots ' * 4}"
        for number in range(8)
    ]
    screen = Console(width=80, height=16, force_terminal=True, color_system=None)
    with screen.capture() as capture:
        screen.print(_fitted(screen, draw(STATUS), news))
    lines = capture.get().splitlines()
    assert 10 < len(lines) < 16
    assert "13:49:27" in capture.get()
    assert "13:49:20" not in capture.get()


def test_a_high_terminal_shows_all_of_them() -> None:
    screen = Console(width=80, height=60, force_terminal=True, color_system=None)
    with screen.capture() as capture:
        screen.print(_fitted(screen, draw(STATUS), ["one", "two"]))
    assert capture.get().splitlines()[-2:] == ["one", "two"]


async def test_the_view_goes_on_when_the_status_cannot_be_had_for_a_while(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers, shown_again = [DaemonError("p2pd is being restarted"), STATUS], asyncio.Event()
    view = View()
    view._rich = Console(width=80, force_terminal=True)

    async def status() -> Status:
        answer = answers.pop(0) if answers else STATUS
        if isinstance(answer, Exception):
            raise answer
        shown_again.set()
        return answer

    monkeypatch.setattr("paris_p2p.peer.view._DRAW_EVERY_S", 0.0)
    showing = asyncio.create_task(view.show(status))
    drawn = asyncio.create_task(shown_again.wait())
    await asyncio.wait({drawn, showing}, return_when="FIRST_COMPLETED")
    is_over = showing.done()
    await end_tasks([drawn, showing])
    assert not is_over
    assert "my style" in capsys.readouterr().out


def test_a_trainer_that_has_not_begun_is_said_to_be_about_to_train():
    begun = TrainingStatus(slot="router", epoch=1, steps=7, loss=0.5, device="cpu")
    before = begun.model_copy(update={"device": "", "loss": None})
    assert "here: router step 7, loss 0.5000" in shown(80, STATUS.model_copy(update={"training": begun}))
    waiting = shown(80, STATUS.model_copy(update={"training": before}))
    assert "here: router is about to train" in waiting
    assert "step 7" not in waiting


def test_a_narrower_one_still_tells_the_slots_apart():
    assert all(slot.slot in shown(60) for slot in SLOTS)


def test_the_largest_numbers_fit_eighty_columns_too():
    huge = SlotStatus(
        slot="expert-255",
        lead="p" * 52,
        epoch=12_345,
        tip="a2c5ba743c5c5c0d",
        tip_epoch=12_345,
        tip_seq=99_999,
        tip_age_s=86400.0 * 365,
        clips=10**15,
        steps=10**12,
        loss=123.4567,
        attestations=64,
        pending=128,
    )
    drawn = shown(80, STATUS.model_copy(update={"slots": (huge,)}))
    assert all(len(line) <= 80 for line in drawn.splitlines())
    row = next(line for line in drawn.splitlines() if line.startswith("expert-255"))
    assert "…" not in row.replace("…pppppppp", "")
    assert "365 d" in row
    assert "1,000 T" in row


def test_a_slot_without_a_checkpoint_says_why():
    waiting = SlotStatus(slot="router", news="nobody leads it: it waits for a peer")
    assert "router: nobody leads it" in shown(80, STATUS.model_copy(update={"slots": (waiting,)}))


def test_a_full_disk_is_said_once_not_with_every_try(capsys, monkeypatch):
    now_s = [100.0]
    monkeypatch.setattr("paris_p2p.peer.view.time.monotonic", lambda: now_s[0])
    view = View()
    for seq in range(26):
        view.say(
            f"could not check expert-0 seq {seq} yet: 30.1 MB needed, "
            "but 90.0 of --max-disk 100.0 MB are used; raise --max-disk"
        )
        view.say(f"attested router seq {seq}")
    said = capsys.readouterr().out
    assert (said.count("raise --max-disk"), said.count("attested router")) == (1, 26)
    now_s[0] += _SAY_AGAIN_S
    view.say("gave up expert-0: no space left for x; raise --max-disk")
    assert "raise --max-disk" in capsys.readouterr().out


def test_what_the_owner_said_and_what_this_peer_may_do_is_shown_without_control_characters():
    said = NoticeStatus(
        number=3, act="pause", at_s=0.0, words="notice 3, owner, 2026-11-26 10:00: paused: \x1b[2J"
    )
    governed = Governance(
        notices=3,
        last=(said,),
        members_only=True,
        private=True,
        members=5,
        rights=("generate", "train"),
        rights_end_s=1.9e9,
        names={SLOTS[0].lead: "desk in the hall"},
    )
    drawn = shown(80, STATUS.model_copy(update={"governance": governed}))
    assert "private run, 5 members; this peer may generate, train until 2030-03-1" in drawn
    assert "notice 3, owner, 2026-11-26 10:00: paused:" in drawn
    assert "\x1b" not in drawn
    assert "desk in" in drawn
    assert "f5a1sfyf" not in drawn  # the owner gave it a name


def test_an_open_run_whose_owner_said_nothing_shows_nothing_of_it():
    assert Governance().lines() == []
    assert shown(80) == shown(80, STATUS.model_copy(update={"governance": Governance(rights=("train",))}))
