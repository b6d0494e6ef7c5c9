import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paris_p2p.data.captions import read_table
from paris_p2p.data.sources import Found, find_sources
from paris_p2p.data.text_files import NotTextError, check_encoding, clean_caption, decode_text
from paris_p2p.errors import DataError, UsageError
from tests.data.videos import write_tar


def media(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def captions(found: Found) -> dict[str, str]:
    return {source.name: source.caption for source in found.sources}


def told(found: Found) -> set[tuple[str, str]]:
    return {(note.name, note.what) for note in found.notes}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_unicode_captions_are_read_by_their_mark(tmp_path, encoding):
    media(tmp_path, "a.mp4")
    (tmp_path / "a.txt").write_bytes("Un café près d’ici 🎈\r\n".encode(encoding))
    found = find_sources(tmp_path)
    assert captions(found) == {"a.mp4": "Un café près d’ici 🎈"}
    assert found.notes == []


@pytest.mark.parametrize(
    ("data", "advice"),
    [
        ("Un café près".encode("cp1252"), "--caption-encoding cp1252 would read it as 'Un café près'"),
        ("a red ball".encode("utf-16-le"), "--caption-encoding utf-16-le would read it as 'a red ball'"),
        ("a red ball".encode("utf-16-be"), "--caption-encoding utf-16-be would read it as 'a red ball'"),
        (b"\xff\xfea", "marked as utf-16-le and is wrong at byte 2"),
    ],
)
def test_a_caption_of_no_unicode_is_refused_by_name_and_never_trained_as_rubbish(tmp_path, data, advice):
    media(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "a.txt").write_bytes(data)
    (tmp_path / "b.txt").write_text("a blue ball")
    write_tar(tmp_path / "t.tar", {"c.mp4": b"x", "c.txt": data})
    found = find_sources(tmp_path)
    assert captions(found) == {"b.mp4": "a blue ball"}
    assert {skip.name: skip.reason for skip in found.skipped} == dict.fromkeys(
        ("a.mp4", "t.tar/c.mp4"), "caption not readable"
    )
    assert all(advice in skip.detail for skip in found.skipped)


def test_a_named_encoding_is_used_where_utf_8_does_not_fit_and_that_is_reported(tmp_path):
    media(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "a.txt").write_bytes("Un café".encode("cp1252"))
    (tmp_path / "b.txt").write_text("Un café", encoding="utf-8")
    write_tar(tmp_path / "t.tar", {"c.mp4": b"x", "c.json": '{"caption": "Un thé"}'.encode("cp1252")})
    found = find_sources(tmp_path, encoding="cp1252")
    assert captions(found) == {"a.mp4": "Un café", "b.mp4": "Un café", "t.tar/c.mp4": "Un thé"}
    assert told(found) == {("a.mp4", "caption read as cp1252"), ("t.tar/c.mp4", "caption read as cp1252")}
    (tmp_path / "captions.csv").write_bytes("file,caption\na.mp4,Déjà\n".encode("cp1252"))
    found = find_sources(tmp_path, encoding="cp1252")
    assert captions(found)["a.mp4"] == "Déjà"
    assert ("captions.csv", "read as cp1252") in told(found)


def test_a_table_is_held_to_the_same_rule_as_a_sidecar(tmp_path):
    media(tmp_path, "a.mp4")
    (tmp_path / "captions.csv").write_bytes("file,caption\na.mp4,Un café\n".encode("cp1252"))
    with pytest.raises(
        DataError, match=r"captions\.csv cannot be read: byte 25 is not UTF-8; .*--caption-encoding cp1252"
    ):
        find_sources(tmp_path)
    (tmp_path / "captions.csv").write_bytes("file,caption\r\na.mp4,Un café\r\n".encode("utf-16"))
    assert captions(find_sources(tmp_path)) == {"a.mp4": "Un café"}


@pytest.mark.parametrize("name", ["klingon", "rot13", "hex", "\0", "idna" * 100])
def test_an_encoding_that_is_none_is_an_error(name):
    with pytest.raises(UsageError, match="is not an encoding known here"):
        check_encoding(name)


CSV_ERRORS = {
    "an unquoted comma": (
        "file,caption\na.mp4,a dog, running\n",
        r"line 2 has 3 cells, the header has 2 \(file, caption\): 'a.mp4,a dog, running'. Put a caption",
    ),
    "an unquoted comma before a source": (
        "file,caption,source\na.mp4,a dog, running,film\n",
        "line 2 has 4 cells, the header has 3",
    ),
    "a short row": (
        "file,caption,source\na.mp4,a dog\n",
        r"line 2 has 2 cells, the header has 3 .*'a.mp4,a dog'",
    ),
    "an open quote at the end": (
        'file,caption\na.mp4,"a dog\nb.mp4,a cat\n',
        r"line 2: 'a.mp4,\"a dog' cannot be read",
    ),
    "an open quote before another": (
        'file,caption\na.mp4,"a dog\nb.mp4,"a cat"\n',
        r"line 2: 'a.mp4,\"a dog' cannot be read .*A quote that opens must close",
    ),
    "a quote that swallows rows": (
        'file,caption\na.mp4,"a dog\nb.mp4,a cat\nc.mp4,a mouse"\n',
        r"a quote opens on line 2 and closes on line 4 only, so that line 3 \('b.mp4,a cat'\) would be part",
    ),
    "other key names": (
        "id,words\n1,a dog\n",
        r"line 1 has 'id', 'words' and so no file: 'id,words'. .*may be called file, file_name",
    ),
    "no caption column": ("file,words\na.mp4,a dog\n", "line 1 has 'file', 'words' and so no caption"),
    "a caption for no file": ("file,caption\n,a dog\n", "line 2 names no file"),
    "a file named twice": (
        "file,caption\na.mp4,a dog\na.mp4,a cat\n",
        r"names 'a.mp4' on line 2 and again, .*, on line 3",
    ),
    "an end without a start": (
        "file,caption,start,end\na.mp4,a dog,,5\n",
        "line 2 has an end and no start",
    ),
    "two columns of one name": (
        "file,Caption,caption\na.mp4,a dog,a cat\n",
        "line 1 has caption twice: 'file,Caption,caption'. Rename one",
    ),
}


@pytest.mark.parametrize("kind", CSV_ERRORS)
def test_a_table_that_is_not_one_is_an_error_that_shows_the_line(tmp_path, kind):
    media(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    text, message = CSV_ERRORS[kind]
    (tmp_path / "captions.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        find_sources(tmp_path)


JSON_ERRORS = {
    "a list": ('["a.mp4", "a dog"]', "line 1 is a list, not an object"),
    "a number": ("3", "line 1 is a number, not an object"),
    "other keys": ('{"id": 1, "words": "x"}', "line 1 has 'id', 'words' and so no file"),
    "a list of captions": ('{"file": "a.mp4", "caption": ["x", "y"]}', "line 1: caption is a list, not text"),
    "a number for a caption": ('{"file": "a.mp4", "caption": 7}', "line 1: caption is a number, not text"),
    "a deep nest": ("[" * 100_000, "line 1 is not JSON"),
}


@pytest.mark.parametrize("kind", JSON_ERRORS)
def test_a_line_that_is_no_row_is_an_error_with_the_true_reason(tmp_path, kind):
    media(tmp_path, "a.mp4")
    text, message = JSON_ERRORS[kind]
    (tmp_path / "captions.jsonl").write_text(text + "\n")
    with pytest.raises(DataError, match=message):
        find_sources(tmp_path)


def test_quoted_commas_line_breaks_and_empty_rows_of_a_spreadsheet_are_read(tmp_path):
    media(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    text = '\ufeffFile,Caption,Source\r\n\r\na.mp4,"a dog, running\nfast, and ""free""",film\r\n'
    text += ",,\r\nb.mp4,it's 5\" long,\r\nc.mp4,,\r\n"
    (tmp_path / "captions.csv").write_bytes(text.encode())
    found = find_sources(tmp_path)
    assert captions(found) == {"a.mp4": 'a dog, running fast, and "free"', "b.mp4": "it's 5\" long"}
    assert [source.group for source in found.sources] == ["film", ""]
    assert told(found) == {("captions.csv, line 5", "row without file and caption left out")}
    assert [(skip.name, skip.detail) for skip in found.skipped] == [
        ("c.mp4", "captions.csv, line 7, has an empty caption")
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("captions.csv", "file;caption\na.mp4;a dog, running\n"),
        ("captions.tsv", "file\tcaption\na.mp4\ta dog, running\n"),
        ("captions.csv", "file\tcaption\na.mp4\ta dog, running\n"),
        ("metadata.csv", 'file_name,text\na.mp4,"a dog, running"\n'),
        ("metadata.jsonl", '{"file_name": "a.mp4", "text": "a dog, running"}\n'),
        ("captions.jsonl", '{"Video": "a.mp4", "Prompt": "a dog, running"}\r\n'),
    ],
)
def test_tables_as_other_tools_write_them_are_read(tmp_path, name, text):
    media(tmp_path, "a.mp4")
    (tmp_path / name).write_bytes(text.encode())
    assert captions(find_sources(tmp_path)) == {"a.mp4": "a dog, running"}


def test_tables_that_are_not_read_are_reported_with_what_to_do(tmp_path):
    media(tmp_path, "a.mp4")
    (tmp_path / "captions.csv").write_text("file,caption\na.mp4,a dog\n")
    (tmp_path / "metadata.jsonl").write_text("")
    (tmp_path / "captions.json").write_text("{}")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "captions.csv").write_text("file,caption\nb.mp4,a cat\n")
    (tmp_path / "Metadata.csv").write_text("file,caption\n")
    notes = {note.name: note.detail for note in find_sources(tmp_path).notes if note.what == "table not read"}
    assert set(notes) == {"metadata.jsonl", "captions.json", "sub/captions.csv", "Metadata.csv"}
    assert notes["Metadata.csv"] == "captions.csv is; keep one table a folder"
    assert "captions.csv is" in notes["metadata.jsonl"]
    assert "write it as captions.jsonl" in notes["captions.json"]
    assert "move its rows there" in notes["sub/captions.csv"]


@pytest.mark.parametrize("sidecar", ["a.txt", "A.TXT", "a.mp4.txt", "a.caption.txt", "a.caption", "a.json"])
def test_sidecars_as_other_tools_name_them_are_read(tmp_path, sidecar):
    media(tmp_path, "a.mp4")
    (tmp_path / sidecar).write_text('{"caption": "a dog"}' if sidecar == "a.json" else "a dog")
    assert captions(find_sources(tmp_path)) == {"a.mp4": "a dog"}


@pytest.mark.parametrize("ending", [".txt", ".caption", ".json"])
def test_names_that_differ_in_case_alone_keep_their_own_captions(tmp_path, ending):
    media(tmp_path, "A.mp4", "a.mp4", "B.mp4", "b.mp4", "c.MP4")
    for stem in ("A", "a", "b", "C"):
        text = json.dumps({"caption": f"of {stem}"}) if ending == ".json" else f"of {stem}"
        (tmp_path / f"{stem}{ending}").write_text(text)
    found = find_sources(tmp_path)
    assert captions(found) == {"A.mp4": "of A", "a.mp4": "of a", "b.mp4": "of b", "c.MP4": "of C"}
    assert [(skip.name, skip.reason) for skip in found.skipped] == [("B.mp4", "no caption")]


def test_the_source_that_a_row_names_holds_for_a_caption_that_stands_in_a_file(tmp_path):
    media(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "a.txt").write_text("a ball")
    (tmp_path / "captions.csv").write_text("file,caption,source\na.mp4,,film\nb.mp4,a cube,film\n")
    found = find_sources(tmp_path)
    assert [(s.name, s.caption, s.group) for s in found.sources] == [
        ("a.mp4", "a ball", "film"),
        ("b.mp4", "a cube", "film"),
    ]


def test_an_image_has_one_caption_and_none_by_time(tmp_path):
    media(tmp_path, "a.png", "b.png")
    (tmp_path / "a.srt").write_text("1\n00:00:05,000 --> 00:00:09,000\nlater\n")
    (tmp_path / "captions.csv").write_text("file,caption,start\nb.png,a cube,5\n")
    found = find_sources(tmp_path)
    assert found.sources == []
    assert {skip.name: skip.reason for skip in found.skipped} == {
        "a.png": "no caption",
        "b.png": "caption not readable",
    }
    assert "leave its start and end out of captions.csv" in found.skipped[1].detail


def test_what_is_done_to_subtitles_is_reported(tmp_path):
    media(tmp_path, "a.mp4")
    cue = "{}\n00:00:0{},000 --> 00:00:0{},500\n{}\n\n"
    words = ("un café\x07 noir", "<i></i>", "thé")
    text = "".join(cue.format(n, n, n, said) for n, said in enumerate(words, 1))
    (tmp_path / "a.srt").write_bytes(text.encode("cp1252"))
    found = find_sources(tmp_path, encoding="cp1252")
    assert [cue.text for cue in found.sources[0].timed] == ["un café noir", "thé"]
    assert told(found) == {
        ("a.mp4", "captions by time from subtitles"),
        ("a.mp4", "caption read as cp1252"),
        ("a.mp4", "control characters left out of the caption"),
        ("a.mp4", "captions by time without words left out"),
    }


def test_a_table_in_capitals_is_not_read_and_that_is_reported(tmp_path):
    media(tmp_path, "a.mp4")
    (tmp_path / "Captions.csv").write_text("file,caption\na.mp4,a dog\n")
    found = find_sources(tmp_path)
    assert [(note.what, note.detail) for note in found.notes] == [("table not read", "call it captions.csv")]


def test_a_second_caption_file_is_reported(tmp_path):
    media(tmp_path, "a.mp4")
    (tmp_path / "a.txt").write_text("a dog")
    (tmp_path / "a.caption").write_text("a cat")
    found = find_sources(tmp_path)
    assert captions(found) == {"a.mp4": "a dog"}
    assert told(found) == {("a.mp4", "more than one caption file")}


COMPOSED, DECOMPOSED = "caf\u00e9.mp4", "cafe\u0301.mp4"


@pytest.mark.parametrize(
    ("written", "file"),
    [
        ("sub\\A.MP4", "sub/a.mp4"),
        ("./sub//a.mp4", "sub/a.mp4"),
        (COMPOSED, DECOMPOSED),
        (DECOMPOSED, COMPOSED),
        ("ROOT/sub/a.mp4", "sub/a.mp4"),
    ],
)
def test_names_match_as_file_systems_match_them_and_that_is_reported(tmp_path, written, file):
    media(tmp_path, file)
    row = {"file": written.replace("ROOT", str(tmp_path)), "caption": "a dog"}
    (tmp_path / "captions.jsonl").write_text(json.dumps(row) + "\n")
    found = find_sources(tmp_path)
    assert captions(found) == {file: "a dog"}
    assert found.skipped == []
    wanted = set() if written == "./sub//a.mp4" else {(file, "name matched though written otherwise")}
    assert told(found) == wanted


def test_a_name_that_two_files_share_is_not_guessed(tmp_path):
    media(tmp_path, "A.mp4", "a.mp4")
    if not ((tmp_path / "A.mp4").exists() and len(list(tmp_path.iterdir())) == 2):
        pytest.skip("this file system does not tell case")
    (tmp_path / "captions.csv").write_text("file,caption\na.MP4,a dog\nA.mp4,a cat\n")
    found = find_sources(tmp_path)
    assert captions(found) == {"A.mp4": "a cat"}
    assert ("a.MP4", "missing") in {(skip.name, skip.reason) for skip in found.skipped}


@pytest.mark.parametrize(
    ("written", "near"),
    [
        ("C:\\footage\\a-clip.mp4", "sub/a-clip.mp4"),
        ("sub/a-clip.mov", "sub/a-clip.mp4"),
        ("sub/a-clp.mp4", "sub/a-clip.mp4"),
    ],
)
def test_both_names_are_shown_when_they_nearly_match(tmp_path, written, near):
    media(tmp_path, "sub/a-clip.mp4", "other.mp4")
    (tmp_path / "captions.jsonl").write_text(json.dumps({"file": written, "caption": "a dog"}) + "\n")
    missing = [skip for skip in find_sources(tmp_path).skipped if skip.reason == "missing"]
    assert [skip.name for skip in missing] == [written]
    assert f"captions.jsonl, line 1, but not there; nearly '{near}'" in missing[0].detail


@pytest.mark.parametrize(
    ("raw", "clean", "done"),
    [
        (
            "half \ud83d an emoji",
            "half \N{REPLACEMENT CHARACTER} an emoji",
            ["half characters replaced in the caption"],
        ),
        ("a whole \ud83d\ude00 one in halves", "a whole 😀 one in halves", []),
        ("a\0b \x1b[31mred\x07", "a b [31mred", ["control characters left out of the caption"]),
        ("one\ufeff mark\x7f inside", "one mark inside", ["control characters left out of the caption"]),
        ("\ufeffa mark before\r\nand\u2028lines", "a mark before and lines", []),
        (
            "zwj \U0001f468\u200d\U0001f469\u200d\U0001f467 stays",
            "zwj \U0001f468\u200d\U0001f469\u200d\U0001f467 stays",
            [],
        ),
        ("x" * 2001, "x" * 2000, ["caption cut to 2000 characters"]),
    ],
)
def test_what_no_encoder_reads_is_taken_out_of_a_caption_and_reported(raw, clean, done):
    assert clean_caption(raw) == (clean, done)


@given(st.text(alphabet=st.characters(exclude_categories=()), max_size=80))
def test_any_text_becomes_a_line_that_can_be_stored_and_shown(text):
    line, _ = clean_caption(text)
    assert line.encode().decode() == line
    assert "\n" not in line
    assert "\0" not in line


@given(st.binary(max_size=200))
def test_any_bytes_are_text_or_a_reason(data):
    with suppress(NotTextError):
        assert isinstance(decode_text(data).text, str)


@given(st.binary(max_size=300))
def test_any_table_is_read_or_refused(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("table")
    for name in ("captions.csv", "captions.jsonl"):
        (folder / name).write_bytes(data)
        with suppress(DataError):
            assert read_table(folder).path == folder / name
        (folder / name).unlink()
