"""The gate's clips, in an open run: an adversary trains on all it can get, and has none of them."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from paris_p2p.data.tar_index import tar_members
from paris_p2p.envelope import Envelope, encode
from paris_p2p.errors import DataError, MissingBlobError, MissingKeyError, SealError, UnreachableError
from paris_p2p.flow.path import clip_losses, interpolate, velocity
from paris_p2p.identity import Identity, load_or_create_peer_key
from paris_p2p.keyring import GateKey
from paris_p2p.model.presets import build_expert, expert_config
from paris_p2p.node.host import Host
from paris_p2p.node.run_node import opened
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.spec import RunSpec
from paris_p2p.store.blobs import BlobStore
from paris_p2p.store.sealing import hint_of, open_blob
from paris_p2p.swarm.fake import FakeNetwork
from tests.made.made_prepared import GATE_CLIPS, TRAIN_CLIPS, make_run
from tests.made.made_run import LATENT, TEXT

BATCH, STEPS = 16, 400


Clip = dict[str, Tensor]  # latent, tokens, mask


def clips_in(path: Path) -> list[Clip]:
    """Returns the clips in a file, as far as it is a shard."""
    data, found = path.read_bytes(), []
    try:
        for _, start, size_bytes in tar_members(path):
            try:
                found.append(safetensors.torch.load(data[start : start + size_bytes]))
            except SafetensorError:
                continue
    except DataError:
        return []
    return found


async def everything(run: Envelope[RunSpec], folder: Path, out: Path) -> list[Path]:
    """Returns all that a lead of an open run can have: the owner's node gives what it is asked for."""
    network = FakeNetwork()
    home = folder / "node"
    owner = Host(
        PeerSettings(data_dir=home),
        load_or_create_peer_key(home / "identity.key"),
        BlobStore(home / "blobs"),
    )
    lead = Host(PeerSettings(data_dir=out), Identity.generate(), BlobStore(out / "blobs"))
    for host in (owner, lead):
        host.swarm = network.join(host.identity, host)
    async with opened(owner, run), opened(lead, run) as node:
        paths = await node.fetch(run.record.data_blobs, run.id)
        assert not await node.exchange.ask()
        with pytest.raises((MissingBlobError, UnreachableError)):
            await node.host.swarm.ask(owner.identity.peer_id, "key", run.id, encode({"first": 1}))
        with pytest.raises(MissingKeyError, match="sealed to those who may attest"):
            node.keys.for_gate()
    return [*paths, *(path for path in out.rglob("*") if path.is_file())]


def guessed_keys(run: Envelope[RunSpec]) -> list[GateKey]:
    """Keys made of all that is public."""
    public = [run.id, run.record.gate.key_hash, *(ref.id for ref in run.record.data_blobs)]
    return [GateKey(bytes.fromhex(each)) for each in public] + [GateKey(bytes(32))]


def trained(clips: list[Clip]) -> torch.nn.Module:
    """Learns clips by heart."""
    torch.manual_seed(0)
    network = build_expert(expert_config("nano", LATENT, TEXT))
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(STEPS):
        optimizer.zero_grad()
        chosen = [clips[int(which)] for which in torch.randint(len(clips), (BATCH,))]
        loss_of(network, chosen, torch.rand(BATCH)).backward()
        optimizer.step()
    return network


def loss_of(network: torch.nn.Module, clips: list[Clip], t: Tensor) -> Tensor:
    latents = torch.stack([clip["latent"] for clip in clips]).float()
    tokens = torch.stack([clip["tokens"] for clip in clips]).float()
    mask = torch.stack([clip["mask"] for clip in clips]).bool()
    noise = torch.randn_like(latents)
    made = network(interpolate(latents, noise, t), t, tokens, mask)
    return clip_losses(made, velocity(latents, noise)).mean()


def gate_loss(network: torch.nn.Module, clips: list[Clip]) -> float:
    """Returns the loss where next to nothing but the caption says which clip it is."""
    torch.manual_seed(1)
    with torch.no_grad():
        return float(loss_of(network, clips * 16, torch.full((16 * len(clips),), 0.95)))


def test_an_adversary_finds_no_gate_clip_in_anything_that_it_can_get(tmp_path: Path) -> None:
    folder = tmp_path / "owner"
    run = make_run(folder, members_attest=False, seal_gate=True)
    got = asyncio.run(everything(run, folder, tmp_path / "lead"))
    sealed = [path for path in got if hint_of(path) is not None]
    assert {path.stem for path in sealed} == {shard.blob.id for shard in run.record.gate_shards}
    for path in sealed:
        for key in guessed_keys(run):
            with pytest.raises(SealError):
                open_blob(path, key, io.BytesIO())
    gate = clips_in(folder / "shards" / "gate" / "cluster-0" / "000000.tar")
    assert len(gate) == GATE_CLIPS
    whole = b"".join(path.read_bytes() for path in got)
    for clip in gate:
        data = clip["latent"].numpy().tobytes()
        assert all(data[at : at + 16] not in whole for at in range(0, len(data) - 16, 16))


def test_an_adversary_that_trains_on_all_it_can_get_knows_no_more_of_the_gate_than_an_honest_lead(
    tmp_path: Path,
) -> None:
    """It learns the gate's clips by heart where it finds any, as it does where they are not sealed."""
    losses, harvests = {}, {}
    for name, seal_gate in (("sealed", True), ("plain", False)):
        folder = tmp_path / name
        run = make_run(folder, members_attest=False, seal_gate=seal_gate)
        got = asyncio.run(everything(run, folder, tmp_path / f"{name}-lead"))
        blobs = {path.stem: path for path in got if path.suffix == ".data"}
        harvests[name] = [clip for path in blobs.values() for clip in clips_in(path)]
        of_gate = [clip for shard in run.record.gate_shards for clip in clips_in(blobs[shard.blob.id])]
        gate = clips_in(folder / "shards" / "gate" / "cluster-0" / "000000.tar")
        losses[name] = gate_loss(trained(of_gate or harvests[name]), gate)
    honest = trained(clips_in(tmp_path / "sealed" / "shards" / "train" / "cluster-0" / "000000.tar"))
    assert {name: len(clips) for name, clips in harvests.items()} == {
        "sealed": TRAIN_CLIPS,
        "plain": TRAIN_CLIPS + GATE_CLIPS,
    }
    assert losses["sealed"] >= 0.99 * gate_loss(honest, gate)
    assert losses["plain"] < 0.6 * losses["sealed"]
