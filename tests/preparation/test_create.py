from pathlib import Path

import pytest

from paris_p2p.data.prepared import PreparedModel
from paris_p2p.errors import UsageError
from paris_p2p.preparation.create import CreateOptions, create_run
from paris_p2p.run_file import RUN_FILE
from paris_p2p.spec import GateSpec, TimingSpec, TrainingSpec
from tests.made.made_prepared import prepare_made

OPTIONS = CreateOptions(
    name="made",
    purpose="tests",
    data_licence="CC0",
    weights_licence="CC0",
    expert="nano",
    router="nano",
    training=TrainingSpec(batch_clips=4, learning_rate=1e-3, router_batch_clips=4),
    gate=GateSpec(),
    timing=TimingSpec(),
)


def test_a_hub_model_that_no_hash_pins_is_refused_in_words(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    prepared = prepare_made(folder)
    prepared.model_copy(update={"codec": PreparedModel(name="diffusers:somebody/model")}).write(folder)
    said = (
        r"run cannot become a run: 'diffusers:somebody/model' is pinned by no hash; prepare the clips again"
    )
    with pytest.raises(UsageError, match=said):
        create_run(folder, OPTIONS, None)
    assert not (folder / RUN_FILE).exists()


def test_the_owners_node_folder_is_private_from_the_start(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    prepare_made(folder)
    create_run(folder, OPTIONS, None)
    assert (folder / "node").stat().st_mode & 0o777 == 0o700
