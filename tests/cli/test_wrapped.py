from paris_p2p.cli.console import wrapped


def test_lines_are_broken_between_words_at_80_columns_and_paths_stay_whole():
    path = "/" + "x" * 90
    lines = wrapped(f"short\n{'word ' * 30}\nlook at {path}").splitlines()
    assert lines[0] == "short"
    assert all(len(line) <= 80 for line in lines if path not in line)
    assert path in "\n".join(lines)
    assert lines[2].startswith("  word")
