import os

from paris_p2p.data.folder import not_read, printable, walk
from paris_p2p.data.prepared import _path, path_text
from paris_p2p.data.sources import find_sources


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_a_link_is_followed_after_the_folders_themselves_whatever_its_name(tmp_path):
    touch(tmp_path, "z/1.mp4", "z/deep/2.mp4", "m.mp4")
    (tmp_path / "a").symlink_to(tmp_path / "z")
    (tmp_path / "z" / "deep" / "up").symlink_to(tmp_path)
    found = walk(tmp_path, None)
    assert list(found.files) == ["m.mp4", "z/1.mp4", "z/deep/2.mp4"]
    assert found.left == dict.fromkeys(["a", "z/deep/up"], "the linked folder was seen already")


def test_a_link_to_a_folder_above_brings_its_other_files_once(tmp_path):
    touch(tmp_path, "other.mp4", "clips/1.mp4")
    (tmp_path / "clips" / "all").symlink_to(tmp_path)
    assert list(walk(tmp_path / "clips", None).files) == ["1.mp4", "all/other.mp4"]


def test_broken_links_and_hidden_files_do_no_harm_and_the_output_is_left_out(tmp_path):
    touch(tmp_path, "1.mp4", ".hidden/2.mp4", ".3.mp4", "out/4.mp4")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "back").symlink_to(tmp_path / "out")
    assert list(walk(tmp_path, tmp_path / "out").files) == ["1.mp4", "gone"]


def test_a_pipe_in_the_folder_is_listed_and_never_waited_for(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"x")
    os.mkfifo(tmp_path / "a.txt")
    os.mkfifo(tmp_path / "captions.csv")
    found = find_sources(tmp_path)
    assert {skip.name: skip.reason for skip in found.skipped} == {
        "a.mp4": "no caption",
        "a.txt": "not read",
        "captions.csv": "not read",
    }


def test_every_name_can_be_printed_and_such_a_path_comes_back(tmp_path):
    path = tmp_path / os.fsdecode(b"\xe4 \xf0\x9f\x98\x80\n.mp4")
    assert printable(path.name) == "\\xe4 😀\\n.mp4"
    for odd in (path, tmp_path / "plain 100%25 ü.mp4"):
        text = path_text(odd)
        text.encode()
        assert _path(text) == odd


def test_two_names_that_look_the_same_are_reported(tmp_path):
    touch(tmp_path, os.fsdecode(b"a\xe9.mp4"), "a\\xe9.mp4")
    (tmp_path / "a\\xe9.txt").write_text("caption")
    found = find_sources(tmp_path)
    assert len(found.sources) == 1
    assert [skip.detail for skip in found.skipped] == [
        "another file's name looks the same; rename one of them"
    ]


def test_what_is_listed_as_not_read(tmp_path):
    names = "a.HEIC b.mp4 b.txt b.xml c.xyz c.txt d.xyz e.tar.gz notes.txt captions.csv"
    found = not_read(dict.fromkeys(names.split(), tmp_path), {"b.mp4"})
    assert sorted(found) == ["a.HEIC", "c.xyz", "e.tar.gz"]
