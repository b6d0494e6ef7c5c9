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


def test_a_run_carries_a_validation_shard_of_each_cluster_for_its_router(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    prepared = prepare_made(folder, experts=2)
    gate = prepared.shards_for("gate")
    held = [shard.model_copy(update={"split": "validation"}) for shard in (gate[1], gate[1], gate[0])]
    empty = gate[0].model_copy(update={"split": "validation", "clips": 0})
    prepared.model_copy(update={"shards": (empty, *prepared.shards, *held)}).write(folder)
    spec = create_run(folder, OPTIONS, None).record
    assert [shard.cluster for shard in spec.calibration_shards] == [0, 1]
    assert [shard.clips for shard in spec.calibration_shards] == [gate[0].clips, gate[1].clips]
    assert {shard.blob for shard in spec.calibration_shards} <= set(spec.data_blobs)


def test_without_validation_clips_or_with_one_expert_a_run_says_nothing_of_calibration(
    tmp_path: Path,
) -> None:
    for experts in (1, 2):
        folder = tmp_path / str(experts)
        prepared = prepare_made(folder, experts=experts)
        if experts == 1:
            held = prepared.shards_for("gate")[0].model_copy(update={"split": "validation"})
            prepared.model_copy(update={"shards": (*prepared.shards, held)}).write(folder)
        run = create_run(folder, OPTIONS, None)
        assert run.record.calibration_shards == ()
        assert b"calibration" not in run.payload
