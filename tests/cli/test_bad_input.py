"""Every mistake a person can make has its own message that says what to do, a non-zero exit and no
traceback: the real commands.
"""

from __future__ import annotations

import asyncio
import io
import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from typer.testing import CliRunner

from paris_p2p.cli import bootstrap as bootstrap_cli
from paris_p2p.cli import peer as peer_cli
from paris_p2p.cli import run as run_cli
from paris_p2p.cli import typed
from paris_p2p.data.prepared import Prepared
from paris_p2p.envelope import Envelope
from paris_p2p.errors import DataError, ParisError, UsageError
from paris_p2p.flow.mixture import Routing
from paris_p2p.identity import Identity
from paris_p2p.node.generator import Fetched, FetchedSlot, check_wanted
from paris_p2p.node.host import save_spec, spec_path
from paris_p2p.node.joining import GENERATOR_DIR
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.records import READER, BlobRef
from paris_p2p.spec import RunSpec, sign_run
from paris_p2p.store.data_dir import DataDirLock
from paris_p2p.swarm.real import open_swarm
from tests.data.videos import counting, write_video
from tests.made.made_prepared import make_run
from tests.swarm.swarms import Source

BIN = Path(sys.executable).parent
RUN = "ab" * 32
# the discard port: nothing of ours listens there
NOBODY = f"/ip4/127.0.0.1/tcp/9/p2p/{Identity.generate().peer_id}"
INVITE = f"paris:{RUN}?peer={NOBODY}"
HERE = ("--host", "127.0.0.1", "--yes")


def refused(
    *command: str,
    says: Sequence[str],
    status: int = 1,
    before: Sequence[str] = (),
    stdin: str = "",
    **environment: str,
) -> str:
    """Run a command that must fail with these words and this exit status; returns all it said.

    Its `main` runs here, as loading torch for each of them takes minutes; with something before it, or
    another environment, it is the real command.
    """
    real = before or environment or command[0] == "real"
    words = command[1:] if command[0] == "real" else command
    returned, said = (_as_process if real else _here)(words, before, stdin, environment)
    assert "Traceback" not in said, said
    assert returned == status, (returned, said)
    for expected in says:
        assert expected in said, (expected, said)
    return said


def _as_process(
    words: Sequence[str], before: Sequence[str], stdin: str, environment: dict[str, str]
) -> tuple[int, str]:
    done = subprocess.run(
        [*before, str(BIN / words[0]), *words[1:]],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200", **environment},
    )
    return done.returncode, done.stdout + done.stderr


def _here(
    words: Sequence[str], before: Sequence[str], stdin: str, environment: dict[str, str]
) -> tuple[int, str]:
    """What `main` of the command does: exit status and words. A traceback would be an exception that
    leaves it.
    """
    said = io.StringIO()
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        with (
            mock.patch.dict(os.environ, {"NO_COLOR": "1", "COLUMNS": "200"}),
            mock.patch.object(sys, "argv", list(words)),
            mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()))),
            redirect_stdout(said),
            redirect_stderr(said),
            warnings.catch_warnings(action="ignore"),
            pytest.raises(SystemExit) as ended,
        ):
            MAINS[words[0]]()
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
    return int(ended.value.code or 0), said.getvalue()


MAINS = {"paris-peer": peer_cli.main, "paris-run": run_cli.main, "paris-bootstrap": bootstrap_cli.main}


def mounted(folder: Path, options: str) -> list[str]:
    """What stands before a command that shall find a file system with these options at `folder`; nobody
    else sees it.
    """
    folder.mkdir()
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    script = 'mount -t tmpfs -o "$1" none "$2" && shift 2 && exec "$@"'
    return ["unshare", "--mount", *user, "sh", "-c", script, "sh", options, str(folder)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Envelope[RunSpec]]:
    folder = tmp_path_factory.mktemp("made") / "run"
    return folder, make_run(folder)


@pytest.fixture
def data(tmp_path: Path) -> tuple[str, str]:
    return "--data-dir", str(tmp_path / "data")


# what was typed


@pytest.mark.parametrize(
    ("invite", "says"),
    [
        ("hello", "looks like paris:<run id>?peer=<multiaddr>; ask the run's owner"),
        ("paris:1234?peer=x", "must be 64 hex digits"),
        (f"paris:{RUN}?peer=/ip4/1.2.3.4/tcp/99999/p2p/{NOBODY[-52:]}", "is not a multiaddr like"),
        (f"paris:{RUN}?peer=somewhere", "is not a multiaddr like"),
        ("@/nowhere/invite", "no file /nowhere/invite"),
        ("-", "looks like paris:"),
    ],
)
def test_a_malformed_invite_says_which_part_is_wrong(invite: str, says: str, data: tuple[str, str]) -> None:
    refused("paris-peer", "start", invite, *HERE, *data, says=[says], status=2)


def test_an_invite_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "invite").write_bytes(b"\xff\xfe\x00")
    refused("paris-peer", "fetch", f"@{tmp_path / 'invite'}", says=["not a text file"], status=2)
    refused("paris-peer", "fetch", f"@{tmp_path}", says=["no file"], status=2)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--upload-limit", "fast"], "--upload-limit fast: is not a size; write it like 500MB"),
        (["--max-disk", "-5GB"], "--max-disk -5GB: is not a size"),
        (["--profile", "gpu-9000"], "no profile 'gpu-9000'; there are cpu"),
        (["--host", "999.1.1.1"], "--host 999.1.1.1: is no address of this machine, nor 0.0.0.0"),
        (["--device", "abacus"], "is not one of auto, cpu, cuda"),
        (["--device", "gpu"], "for a GPU say --device cuda"),
        (["--announce", "somewhere"], "--announce"),
        (["--relay", "somewhere"], "--relay"),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_right(
    options: list[str], says: str, data: tuple[str, str]
) -> None:
    refused("paris-peer", "start", INVITE, "--yes", *data, *options, says=[says], status=2)


@pytest.mark.parametrize("verb", [["start", "--yes"], ["generate", "--offline", "a prompt"]])
def test_cuda_asked_for_and_not_there_is_said_before_anything_is_fetched(
    verb: list[str], data: tuple[str, str]
) -> None:
    command = ("paris-peer", *verb, INVITE, *data, "--device", "cuda")
    refused(*command, says=["--device cuda", "--device cpu"], CUDA_VISIBLE_DEVICES="")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--expert", "giant"], "'giant' is not one of 'nano'"),
        (["--router", "giant"], "'giant' is not one of 'nano'"),
        (["--expert", "nano", "--init-from", "nowhere"], "there is no such file or folder"),
    ],
)
def test_an_unknown_preset_or_checkpoint_is_named(
    options: list[str], says: str, run: tuple[Path, Any]
) -> None:
    folder = run[0].parent / "unsigned"
    folder.mkdir(exist_ok=True)
    (folder / "prepared.json").write_bytes((run[0] / "prepared.json").read_bytes())
    (folder / "codec").exists() or (folder / "codec").symlink_to(run[0] / "codec")
    (folder / "text").exists() or (folder / "text").symlink_to(run[0] / "text")
    refused("paris-run", "create", str(folder), *options, says=[says], status=2)


PEER, OWNER = peer_cli.app, run_cli.app


@pytest.mark.parametrize(
    ("app", "command", "says"),
    [
        (PEER, ["start", f"paris:{RUN}"], "names no peer to ask: it seems cut at the `?`"),
        (
            OWNER,
            ["export", f"paris:{RUN}", "--out", "model"],
            "names no peer to ask: it seems cut at the `?`",
        ),
        (
            OWNER,
            ["evaluate", f"paris:{RUN}", "--data", "PREPARED", "--out", "report"],
            "names no peer to ask",
        ),
        (PEER, ["generate", "a ball", f"paris:{RUN}"], "put the whole invite in quotes"),
        (PEER, ["start", "bogus", "--dry-run"], "looks like paris:"),
        (PEER, ["generate", INVITE, "a ball"], "the invite comes last"),
        (PEER, ["generate", f"@{__file__}", "a ball"], "the invite comes last"),
        (PEER, ["generate", "", INVITE], "prompt 1 is empty"),
        (PEER, ["generate", "a ball", " \n", INVITE], "prompt 2 is empty"),
        (PEER, ["generate", 5000 * "x", INVITE], "prompt 1 has 5,000 characters, at most 4,000"),
        (PEER, ["generate", "a ball", INVITE, "--device", "gpu"], "for a GPU say --device cuda"),
        (PEER, ["start", INVITE, "--device", "cuda:x"], "is not one of auto, cpu, cuda"),
        (PEER, ["start", str(Path(__file__).parent)], "is a folder, where an invite"),
        (OWNER, ["publish", INVITE], "an invite stands where the run's folder is wanted"),
        (OWNER, ["create", INVITE], "an invite stands where the folder of `paris-run prepare` is wanted"),
        (OWNER, ["prepare", INVITE, "--out", "o"], "an invite stands where the folder of clips is wanted"),
        (OWNER, ["prepare", ".", "--out", "o", "--device", "gpu"], "for a GPU say --device cuda"),
        (OWNER, ["prepare", "/nowhere", "--out", "o"], "/nowhere is not there, where the folder of clips"),
        (OWNER, ["evaluate", "m", "--data", INVITE, "--out", "o"], "an invite stands where --data"),
        (OWNER, ["export", str(Path(__file__).parent), "--out", "o"], "is a folder, where an invite"),
    ],
)
def test_a_slip_of_the_keyboard_is_told_in_the_words_of_the_command_line(
    app: Any, command: list[str], says: str, run: tuple[Path, Any]
) -> None:
    words = [str(run[0]) if word == "PREPARED" else word for word in command]
    refusal = CliRunner().invoke(app, words).exception
    assert isinstance(refusal, ParisError), refusal
    assert says in str(refusal)


def test_a_model_where_prepared_clips_are_wanted_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(
        DataError, match="is an exported model, where a folder that `paris-run prepare` wrote is wanted"
    ):
        Prepared.load(tmp_path)
    with pytest.raises(DataError, match=r"holds no prepared clips \(No such file or directory: "):
        Prepared.load(tmp_path / "nowhere")


def test_more_experts_than_there_are_are_refused_before_anything_is_fetched(
    run: tuple[Path, Envelope[RunSpec]],
) -> None:
    with pytest.raises(UsageError, match="--top-k 9: this run has 1 expert,"):
        check_wanted(run[1].record, set(run[1].record.slots), False, Routing("top_k", 9))


MADE = "PREPARED"  # stands for the folder of a prepared run
PREPARE, CREATE = (
    ("paris-run", "prepare", str(Path(__file__).parent), "--out", "/nowhere"),
    ("paris-run", "create", MADE),
)
GENERATE, EVALUATE = (
    ("paris-peer", "generate", "a ball", INVITE),
    ("paris-run", "evaluate", "m", "--data", MADE, "--out", "o"),
)


@pytest.mark.parametrize(
    ("command", "option", "value", "limit"),
    [
        (PREPARE, "--height", "5000", "4096"),
        (PREPARE, "--width", "5000", "4096"),
        (PREPARE, "--frames", "2000", "1024"),
        (PREPARE, "--fps", "2000.0", "1000"),
        (PREPARE, "--threads", "300", "256"),
        (PREPARE, "--codec-steps", "10000001", "10000000"),
        (PREPARE, "--clips-per-video", "100001", "100000"),
        (PREPARE, "--rng-seed", str(1 << 53), str(1 << 53)),
        (PREPARE, "--features", "transformers:" + 190 * "x", "200 characters"),
        (CREATE, "--claim-s", "7200.0", "3600"),
        (CREATE, "--settle-s", "100.0", "60"),
        (CREATE, "--margin-s", "100.0", "60"),
        (CREATE, "--checkpoint-s", "100000.0", "86400"),
        (CREATE, "--quorum", "65", "64"),
        (CREATE, "--batch", "2000000", "1048576"),
        (CREATE, "--router-batch", "2000000", "1048576"),
        (CREATE, "--gate-clips", "2000000", "1048576"),
        (CREATE, "--total-steps", str(1 << 53), str(1 << 53)),
        (CREATE, "--attestor", "me", "12D3Koo"),
        (CREATE, "--name", 201 * "x", "200 characters"),
        (CREATE, "--purpose", 2001 * "x", "2000 characters"),
        (CREATE, "--data-licence", "", "1 character"),
        (CREATE, "--weights-licence", 201 * "x", "200 characters"),
        (CREATE, "--rng-seed", str(1 << 53), str(1 << 53)),
        (GENERATE, "--clips", "100001", "100000"),
        (GENERATE, "--guidance", "1e9", "1000"),
        (GENERATE, "--threads", "5000", "1024"),
        (EVALUATE, "--clips", "1000001", "1000000"),
        (EVALUATE, "--rng-seed", str(1 << 31), str(1 << 31)),
        (EVALUATE, "--sha256", "short", "pattern"),
        (("paris-peer", "start", INVITE, *HERE), "--threads", "5000", "1024"),
    ],
)
def test_a_value_past_its_limit_is_named_with_its_option_and_the_limit(
    command: tuple[str, ...], option: str, value: str, limit: str, run: tuple[Path, Any]
) -> None:
    app = {"paris-run": run_cli, "paris-peer": peer_cli}[command[0]].app
    words = [str(run[0]) if word == MADE else word for word in command[1:]]
    refusal = CliRunner().invoke(app, [*words, option, value]).exception
    assert isinstance(refusal, UsageError), refusal
    for words in (option, str(float(value)) if value == "1e9" else value[:100], limit):
        assert words in str(refusal), (words, refusal)


def test_a_value_past_its_limit_is_refused_by_the_real_commands(run: tuple[Path, Any]) -> None:
    refused(
        "real",
        *PREPARE,
        "--height",
        "5000",
        says=["--height 5000: should be less than or equal to 4096"],
        status=2,
    )
    create = ("paris-run", "create", str(run[0]))
    refused(
        "real", *create, "--quorum", "65", says=["--quorum 65: should be less than or equal to 64"], status=2
    )
    refused(
        "real",
        "paris-run",
        "publish",
        str(run[0]),
        "--threads",
        "5000",
        says=["--threads 5000: should be less than"],
        status=2,
    )


def test_an_unknown_slot_is_named_with_those_there_are(
    run: tuple[Path, Envelope[RunSpec]], tmp_path: Path, data: tuple[str, str]
) -> None:
    save_spec(tmp_path / "data", run[1])
    command = ("paris-peer", "start", f"paris:{run[1].id}", *HERE, *data, "--slot", "expert-9")
    refused(*command, says=["'expert-9'", "expert-0, router"], status=2)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--guidance-form", "strong"], "strong"),
        (["--routing", "roulette"], "roulette"),
        (["--routing", "oracle"], "'oracle' is not one of 'top_k'"),
        (["--guidance", "1e9"], "guidance"),
        (["--guidance-interval", "0.8,0.2"], "the lower one first"),
        (["--guidance-interval", "0.8"], "--guidance-interval"),
        (["--guidance-interval", "early,late"], "--guidance-interval"),
        (["--routing", "kept", "--kept-until", "1"], "--kept-until"),
        (["--kept-until", "0.6"], "goes with the routing kept"),
        (["--scheduler", "fast"], "is not one of 'euler', 'heun'"),
        (["--negative-prompt", "x" * 2001], "--negative-prompt"),
        (["--seed", "-1"], "seed"),
        (["--out", "clip.avi"], "clip.avi"),
        (["--prompts-file", "/nowhere/prompts"], "/nowhere/prompts"),
    ],
)
def test_a_wrong_wish_for_a_clip_is_named(
    options: list[str], says: str, run: tuple[Path, Envelope[RunSpec]], tmp_path: Path
) -> None:
    invite = fetched(tmp_path, run[1], ("expert-0", "router"))
    refused(
        "paris-peer",
        "generate",
        "a ball",
        invite,
        "--offline",
        "--data-dir",
        str(tmp_path),
        *options,
        says=[says],
        status=2,
    )


def fetched(data_dir: Path, run: Envelope[RunSpec], slots: Sequence[str]) -> str:
    """Make it look as if a fetch had brought these slots; returns the invite."""
    home = data_dir / GENERATOR_DIR
    save_spec(home, run)
    made = Fetched(
        slots={slot: FetchedSlot(card=RUN, weights=BlobRef(id=RUN, size_bytes=1)) for slot in slots}
    )
    (home / "runs" / run.id / "fetched.json").write_text(made.model_dump_json())
    return f"paris:{run.id}"


def test_generating_with_slots_missing_names_them(
    run: tuple[Path, Envelope[RunSpec]], tmp_path: Path
) -> None:
    invite = fetched(tmp_path, run[1], ("expert-0",))
    command = ("paris-peer", "generate", "a ball", invite, "--offline", "--data-dir", str(tmp_path))
    refused(*command, says=["for router;", "--allow-partial"])


def test_offline_a_damaged_run_spec_is_named_and_kept(
    run: tuple[Path, Envelope[RunSpec]], tmp_path: Path
) -> None:
    invite = fetched(tmp_path, run[1], ("expert-0", "router"))
    path = spec_path(tmp_path / GENERATOR_DIR, run[1].id)
    path.write_bytes(run[1].data[:-9])
    command = ("paris-peer", "generate", "a ball", invite, "--offline", "--data-dir", str(tmp_path))
    refused(*command, says=[f"the RunSpec {path} is damaged", "run `paris-peer fetch INVITE` once, online"])
    assert path.read_bytes() == run[1].data[:-9]


def test_an_owners_damaged_run_is_named_and_never_deleted(
    run: tuple[Path, Envelope[RunSpec]], tmp_path: Path
) -> None:
    path = tmp_path / "run.spec"
    path.write_bytes(run[1].data[:-9])
    refused("paris-run", "publish", str(tmp_path), says=[f"{path} is damaged", "restore it from a backup"])
    assert path.read_bytes() == run[1].data[:-9]


@pytest.mark.parametrize(("folder", "says"), [("empty", "holds no model"), ("old", "no signed run.spec")])
def test_generating_from_a_folder_that_is_no_export_says_what_it_lacks(
    tmp_path: Path, folder: str, says: str
) -> None:
    (tmp_path / folder).mkdir()
    if folder == "old":
        (tmp_path / folder / "model_index.json").write_text("{}")
    command = ("paris-peer", "generate", "a ball", str(tmp_path / folder), "--data-dir", str(tmp_path))
    refused(*command, says=[says, "paris-run export"], status=2)


def test_generating_without_the_router_says_so_before_the_experts_are_fetched(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", experts=2)
    invite = fetched(tmp_path, run, ("expert-0", "expert-1"))  # their weights are nowhere
    command = (
        "paris-peer",
        "generate",
        "a ball",
        invite,
        "--offline",
        "--data-dir",
        str(tmp_path),
        "--allow-partial",
    )
    refused(
        *command, says=["routing top_k asks the router which of 2 experts", "--routing uniform"], status=2
    )
    refused(*command, "--routing", "uniform", says=["is not on this disk"])


def test_generating_offline_before_any_fetch_says_to_fetch(data: tuple[str, str]) -> None:
    refused(
        "paris-peer",
        "generate",
        "a ball",
        INVITE,
        "--offline",
        *data,
        says=["was never fetched", "paris-peer fetch INVITE"],
    )


# this machine


@pytest.mark.parametrize("verb", ["status", "pause", "resume", "stop"])
def test_with_no_peer_running_it_says_how_to_start_one(verb: str, data: tuple[str, str]) -> None:
    refused("paris-peer", verb, *data, says=["no peer is running on", "paris-peer start INVITE"])


def test_a_port_in_use_is_said_with_the_port(data: tuple[str, str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        refused(
            "paris-peer",
            "start",
            INVITE,
            *HERE,
            *data,
            "--port",
            port,
            says=[f"127.0.0.1:{port}", "choose another --port"],
        )
        serve = ("paris-bootstrap", "serve", "--host", "127.0.0.1", *data, "--port", port)
        refused(*serve, says=[f"127.0.0.1:{port}", "choose another --port"])


@pytest.mark.parametrize("place", ["nowhere/file", "folder", "/dev/null"])
def test_a_file_that_cannot_be_written_later_is_refused_before_a_node_starts(
    place: str, tmp_path: Path, run: tuple[Path, Any], data: tuple[str, str]
) -> None:
    (tmp_path / "folder").mkdir()
    file = str(tmp_path / place)
    says = ["is to be written"]
    refused("paris-bootstrap", "serve", *data, "--address-file", file, says=says, status=2)
    refused("paris-run", "publish", str(run[0]), "--invite-file", file, says=says, status=2)
    assert Path("/dev/null").is_char_device()


def test_a_link_names_the_file_that_is_written(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert typed.to_write("an invite")(str(tmp_path / "link")) == tmp_path / "file"


def test_a_data_dir_that_is_in_use_names_the_process(tmp_path: Path, data: tuple[str, str]) -> None:
    with DataDirLock(tmp_path / "data"):
        refused(
            "paris-peer", "start", INVITE, *HERE, *data, says=[f"process {os.getpid()}", "its own --data-dir"]
        )


@pytest.mark.parametrize(
    "verb",
    [
        ["paris-peer", "start", INVITE, *HERE],
        ["paris-peer", "fetch", INVITE],
        ["paris-bootstrap", "serve", "--port", "0"],
    ],
)
def test_a_read_only_disk_is_said_with_its_path(verb: list[str], tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    before = mounted(disk, "ro,size=1m")
    refused(
        *verb,
        "--data-dir",
        str(disk / "data"),
        before=before,
        says=[str(disk), "Read-only", "choose another"],
    )


def test_a_full_disk_is_said_with_its_path(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    before = mounted(disk, "size=4k")  # one page: the lock fits, the rest does not
    said = refused(
        "paris-peer",
        "start",
        INVITE,
        *HERE,
        "--data-dir",
        str(disk / "data"),
        before=before,
        says=[str(disk)],
    )
    assert "no space left" in said.lower()


def test_models_that_are_gone_from_the_disk_are_said_to_be_fetched_again(
    run: tuple[Path, Envelope[RunSpec]], tmp_path: Path
) -> None:
    invite = fetched(tmp_path, run[1], ("expert-0", "router"))
    command = (
        "paris-run",
        "export",
        invite,
        "--offline",
        "--data-dir",
        str(tmp_path),
        "--out",
        str(tmp_path / "model"),
    )
    refused(*command, says=["is not on this disk", "paris-peer fetch INVITE"])


# the owner's folder


def test_an_empty_folder_of_clips_is_refused(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    refused(
        "paris-run",
        "prepare",
        str(tmp_path / "clips"),
        "--out",
        str(tmp_path / "out"),
        "-k",
        "2",
        says=[str(tmp_path / "clips")],
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--codec", "mpeg"], "mpeg"),
        (["--text", "parrot"], "parrot"),
        (["--features", "nose"], "nose"),
    ],
)
def test_an_unknown_model_for_preparing_is_named(options: list[str], says: str, tmp_path: Path) -> None:
    for number in range(8):
        write_video(tmp_path / f"{number}.mp4", counting(10, 64, 64)).with_suffix(".txt").write_text("a ball")
    refused(
        "paris-run",
        "prepare",
        str(tmp_path),
        "-k",
        "1",
        "--out",
        str(tmp_path / "out"),
        *options,
        says=[says],
        status=2,
    )


def test_creating_and_publishing_in_the_wrong_order_says_what_comes_first(tmp_path: Path) -> None:
    refused("paris-run", "create", str(tmp_path), says=["paris-run prepare"], status=2)
    refused("paris-run", "publish", str(tmp_path), says=["paris-run create"], status=2)


def test_a_second_run_in_one_folder_is_refused(run: tuple[Path, Any]) -> None:
    refused("paris-run", "create", str(run[0]), says=["already holds run", "another folder"], status=2)


# the others


@pytest.mark.parametrize(
    "verb", [["start", INVITE, *HERE], ["fetch", INVITE], ["generate", "a ball", INVITE]]
)
def test_when_nobody_answers_it_says_where_and_what_to_do(verb: list[str], data: tuple[str, str]) -> None:
    refused("paris-peer", *verb, *data, says=[f"nobody answered at {NOBODY}", "ask for a newer invite"])


def test_an_invite_to_store_for_is_read_from_its_file(tmp_path: Path, data: tuple[str, str]) -> None:
    said = tmp_path / "invite"
    says = ["there is no file", str(said), "to read the invite from"]
    refused("paris-bootstrap", "serve", "--port", "0", "--admit", f"@{said}", *data, says=says, status=2)
    said.write_text("not one")
    says = ["--admit", "not an invite", "not one"]
    refused("paris-bootstrap", "serve", "--port", "0", "--admit", f"@{said}", *data, says=says, status=2)


def test_a_bootstrap_address_that_is_none_is_refused(run: tuple[Path, Any], data: tuple[str, str]) -> None:
    says = ["--peer somewhere: is not a multiaddr like /ip4/"]
    refused("paris-run", "publish", str(run[0]), "--peer", "somewhere", says=says, status=2)
    refused("paris-bootstrap", "serve", "--port", "0", "--peer", "somewhere", *data, says=says, status=2)


def newer(run: Envelope[RunSpec]) -> Envelope[RunSpec]:
    """The same run as a later version of the project would sign it, for its own readers."""
    return sign_run(Identity.generate(), run.record.model_copy(update={"oldest_reader": READER + 1}))


def test_a_run_for_newer_readers_says_to_update(run: tuple[Path, Envelope[RunSpec]], tmp_path: Path) -> None:
    (tmp_path / "run.spec").write_bytes(newer(run[1]).data)
    refused(
        "paris-run",
        "publish",
        str(tmp_path),
        says=[f"reader {READER + 1} or newer, this is reader {READER}", "update paris-p2p"],
    )


class Answers(Source):
    """Serves one RunSpec."""

    def __init__(self, run: Envelope[RunSpec]):
        super().__init__()
        self.run = run

    def spec(self, run_id: str, /) -> bytes | None:
        return self.run.data if run_id == self.run.id else None


@pytest.mark.swarm
async def test_peers_of_a_newer_run_and_peers_of_another_time_are_told_apart(
    run: tuple[Path, Envelope[RunSpec]], tmp_path: Path
) -> None:
    newer_run = newer(run[1])

    async def join(clock_offset_s: float, says: list[str]) -> None:
        folder = tmp_path / str(clock_offset_s)
        settings = PeerSettings(data_dir=folder / "other", host="127.0.0.1")
        clock = lambda: time.time() + clock_offset_s  # noqa: E731
        async with open_swarm(Identity.generate(), settings, source=Answers(newer_run), clock=clock) as other:
            command = (
                "paris-peer",
                "start",
                f"paris:{newer_run.id}?peer={other.addresses()[0]}",
                *HERE,
                "--data-dir",
                str(folder / "me"),
            )
            await asyncio.to_thread(refused, "real", *command, says=says)

    await join(0.0, [f"reader {READER + 1} or newer", "update paris-p2p"])
    await join(30.0, ["clock is", "s behind that of 1 peer,", "timedatectl set-ntp true"])
