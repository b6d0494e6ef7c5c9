from pathlib import Path
from urllib.parse import quote

import pytest

from paris_p2p.cli.evaluate import _model_folder
from paris_p2p.errors import MissingBlobError, UsageError
from paris_p2p.identity import Identity
from paris_p2p.peer_settings import PeerSettings

INVITE = f"paris:{'ab' * 32}?peer=/ip4/127.0.0.1/tcp/9/p2p/{Identity.generate().peer_id}"


@pytest.mark.parametrize(
    "pasted", [INVITE, f"<{INVITE}>", f'"{INVITE}"', f"here it is: {INVITE}", quote(INVITE)]
)
def test_an_invite_is_one_however_it_was_pasted_and_anything_else_a_folder(
    tmp_path: Path, pasted: str
) -> None:
    def folder_of(model: str) -> Path:
        return _model_folder(
            model, tmp_path / "report", PeerSettings(data_dir=tmp_path), True, lambda *_: None
        )

    with pytest.raises(MissingBlobError, match="was never fetched"):
        folder_of(pasted)
    with pytest.raises(UsageError, match="my-model is not there, where an invite or a folder"):
        folder_of("my-model")
    (tmp_path / "paris:mine").mkdir()
    with pytest.raises(UsageError, match="paris:mine holds no model"):
        folder_of(str(tmp_path / "paris:mine"))
    (tmp_path / "paris:mine" / "model_index.json").write_text("{}")
    assert folder_of(str(tmp_path / "paris:mine")) == tmp_path / "paris:mine"
