from pathlib import Path

import pytest

from paris_p2p.cli.console import read_text
from paris_p2p.errors import UsageError


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_line_of_a_file_of_prompts_ends_at_a_line_feed_alone_and_its_mark_is_no_part_of_it(
    tmp_path: Path, encoding: str
) -> None:
    path = tmp_path / "prompts.txt"
    text = "a red\rball\na café\x0b\u2028\x85 at night\r\n"
    path.write_bytes(text.encode(encoding))
    assert read_text(path) == text


def test_a_file_of_prompts_in_another_encoding_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes("un café".encode("cp1252"))
    with pytest.raises(UsageError, match=r"prompts\.txt is not a text file in UTF-8 .*save it as UTF-8"):
        read_text(path)
