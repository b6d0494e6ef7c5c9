import json
import tarfile

import pytest

from paris_p2p.data.sources import Found, find_sources
from paris_p2p.errors import DataError
from tests.data.videos import counting, write_tar, write_video


def reasons(skipped) -> dict[str, str]:
    return {skip.name: skip.reason for skip in skipped}


def found(folder):
    result = find_sources(folder)
    return result.sources, result.skipped


def test_sidecars_are_read_and_files_without_one_are_skipped(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.MP4").write_bytes(b"x")
    (tmp_path / "sub" / "b.txt").write_text("\ufeffa  red\nball ", encoding="utf-8")
    (tmp_path / "a.webm").write_bytes(b"x")
    (tmp_path / "c.mp4").write_bytes(b"")
    (tmp_path / "c.txt").write_text("empty file")
    (tmp_path / "d.mp4").write_bytes(b"x")
    (tmp_path / "d.txt").write_text("  \n")
    (tmp_path / ".hidden.mp4").write_bytes(b"x")
    (tmp_path / "notes.md").write_text("not a video")
    sources, skipped = found(tmp_path)
    assert [(source.name, source.caption) for source in sources] == [("sub/b.MP4", "a red ball")]
    assert reasons(skipped) == {"a.webm": "no caption", "c.mp4": "empty", "d.mp4": "no caption"}


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_one_captions_file_names_captions_and_sources(tmp_path, kind):
    for name in ("a.mp4", "b.mp4", "odd.name"):
        (tmp_path / name).write_bytes(b"x")
    rows = [
        ("a.mp4", 'says "hi", twice', "film"),
        ("odd.name", "an odd one", ""),
        ("gone.mp4", "is not there", ""),
    ]
    if kind == "csv":
        lines = ["File,Caption,Source", *(f'{f},"{c.replace(chr(34), chr(34) * 2)}",{s}' for f, c, s in rows)]
        (tmp_path / "captions.csv").write_text("\n".join(lines))
    else:
        lines = [json.dumps({"file": f, "caption": c, "source": s}) for f, c, s in rows]
        (tmp_path / "captions.jsonl").write_text("\n".join(lines) + "\n\n")
    sources, skipped = found(tmp_path)
    assert [(s.name, s.caption, s.group) for s in sources] == [
        ("a.mp4", 'says "hi", twice', "film"),
        ("odd.name", "an odd one", ""),
    ]
    assert reasons(skipped) == {"b.mp4": "no caption", "gone.mp4": "missing"}


def test_a_broken_captions_file_is_named_with_its_line(tmp_path):
    (tmp_path / "captions.jsonl").write_text('{"file": "a.mp4", "caption": "x"}\n{oops\n')
    with pytest.raises(DataError, match=r"captions\.jsonl, line 2 is not JSON"):
        find_sources(tmp_path)
    (tmp_path / "captions.csv").write_text("a,b\n1,2\n")
    with pytest.raises(
        DataError,
        match=r"captions\.csv, line 1 has 'a', 'b' and so no file: 'a,b'. Each line needs file and caption",
    ):
        find_sources(tmp_path)
    (tmp_path / "captions.csv").write_bytes(b"file,caption\na.mp4,\xff\xfe\n")
    with pytest.raises(DataError, match="byte 19 is not UTF-8"):
        find_sources(tmp_path)


def test_webdataset_tars_are_read_in_place(tmp_path):
    video = write_video(tmp_path / "v.mkv", counting(8)).read_bytes()
    (tmp_path / "v.mkv").unlink()
    members = {
        "x/000.mp4": video,
        "x/000.txt": b"from a txt",
        "x/001.mp4": video + b"1",
        "x/001.json": json.dumps({"caption": "from json", "source": "film"}).encode(),
        "x/002.mp4": video,
        "x/003.mp4": b"",
        "x/003.txt": b"empty",
    }
    write_tar(tmp_path / "t.tar", members)
    sources, skipped = found(tmp_path)
    assert [(s.name, s.caption, s.group) for s in sources] == [
        ("t.tar/x/000.mp4", "from a txt", ""),
        ("t.tar/x/001.mp4", "from json", "film"),
    ]
    assert reasons(skipped) == {"t.tar/x/002.mp4": "no caption", "t.tar/x/003.mp4": "empty"}
    with sources[1].open() as file:
        assert file.read() == video + b"1"


def test_a_damaged_tar_gives_what_comes_before_the_damage(tmp_path):
    path = write_tar(
        tmp_path / "t.tar", {"a.mp4": b"v" * 600, "a.txt": b"one", "b.mp4": b"v" * 600, "b.txt": b"two"}
    )
    path.write_bytes(path.read_bytes()[:2600] + b"\xff" * 900)
    (tmp_path / "u.tar").write_bytes(b"no tar at all" * 99)
    sources, skipped = found(tmp_path)
    assert [source.name for source in sources] == ["t.tar/a.mp4"]
    assert reasons(skipped)["u.tar"] == "unreadable"


def test_a_tar_with_a_header_of_nonsense_is_listed_and_ends_nothing(tmp_path):
    with tarfile.open(tmp_path / "t.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("a.mp4")
        member.pax_headers = {"GNU.sparse.size": "many"}
        tar.addfile(member)
    sources, skipped = found(tmp_path)
    assert sources == []
    assert reasons(skipped) == {"t.tar": "unreadable"}


def test_what_is_not_read_inside_a_tar_is_listed_with_the_true_reason(tmp_path):
    long = b"x" * ((1 << 20) + 1)
    samples = {"a.heic": b"v", "a.txt": b"a fox", "b.mp4": b"v", "b.txt": long, "c.mp4": b"v", "c.txt": b"c"}
    write_tar(tmp_path / "t.tar", samples | {"c.cls": b"1"})
    sources, skipped = found(tmp_path)
    assert [source.name for source in sources] == ["t.tar/c.mp4"]
    assert reasons(skipped) == {"t.tar/a.heic": "not read", "t.tar/b.mp4": "caption not readable"}
    assert "b.txt has more than 1048576 bytes" in skipped[1].detail


def test_a_picture_of_a_kind_that_is_not_read_stays_so_when_a_table_names_it(tmp_path):
    for name in ("a.heic", "b.zip", "c.mp4"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "captions.csv").write_text("file,caption\na.heic,a fox\nb.zip,a cube\nc.mp4,a ball\n")
    sources, skipped = found(tmp_path)
    assert [source.name for source in sources] == ["c.mp4"]
    assert {skip.name: skip.detail for skip in skipped} == {
        "a.heic": ".heic files are not read; convert it to .jpg or .png",
        "b.zip": ".zip files are not read; unpack it",
    }


def test_the_output_folder_inside_the_input_is_left_out(tmp_path):
    (tmp_path / "out").mkdir()
    write_tar(tmp_path / "out" / "000000.tar", {"a.mp4": b"v", "a.txt": b"caption"})
    assert find_sources(tmp_path, tmp_path / "out") == Found()


def test_the_same_content_has_the_same_hash_wherever_it_lies(tmp_path):
    large = bytes(range(256)) * 4000
    write_tar(tmp_path / "t.tar", {"a.mp4": large, "a.txt": b"in the tar"})
    for name, data in (("b.mp4", large), ("c.mp4", large[:-1] + b"!")):
        (tmp_path / name).write_bytes(data)
        (tmp_path / name).with_suffix(".txt").write_text("caption")
    hashes = {source.name: source.content_hash() for source in find_sources(tmp_path).sources}
    assert hashes["t.tar/a.mp4"] == hashes["b.mp4"] != hashes["c.mp4"]


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(DataError, match="is not a folder"):
        find_sources(tmp_path / "nothing")
