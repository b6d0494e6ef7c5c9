"""The RunSpec, invites and sizes: what is agreed survives the wire, what a person types is read or
explained.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from paris_p2p.envelope import encode, seal_payload
from paris_p2p.errors import InviteError, RecordError, SignatureError, VersionError
from paris_p2p.identity import Identity
from paris_p2p.invite import Invite
from paris_p2p.records import READER, BlobRef
from paris_p2p.spec import (
    ClipShape,
    GateSpec,
    LatentShape,
    NetworkSpec,
    Pinned,
    RunSpec,
    ShardRef,
    TextShape,
    TimingSpec,
    TrainingSpec,
    cluster_of,
    open_run,
    sign_run,
)

OWNER = Identity.from_private_bytes(b"o" * 32)
PEER = Identity.from_private_bytes(b"p" * 32).peer_id
RUN = "ab" * 32


def shard(cluster: int, number: int = 0) -> ShardRef:
    return ShardRef(
        blob=BlobRef(id=f"{cluster:02x}{number:02x}" * 16, size_bytes=10), clips=4, cluster=cluster
    )


def spec(**more: Any) -> RunSpec:
    fields: dict[str, Any] = {
        "name": "a run",
        "purpose": "to test",
        "data_licence": "CC0",
        "weights_licence": "Apache-2.0",
        "created_at": 1.8e9,
        "rng_seed": 7,
        "owner_node": PEER,
        "clip": ClipShape(frames=8, height=64, width=64, fps=8.0),
        "latent": LatentShape(channels=16, frames=8, height=8, width=8),
        "codec": Pinned(name="pca", files={"pca.safetensors": BlobRef(id="0f" * 32, size_bytes=3)}),
        "text": Pinned(name="minilm", revision="0.1.0", sha256="ee" * 32),
        "text_shape": TextShape(tokens=32, dim=384, pooled_dim=384),
        "experts": 2,
        "expert": NetworkSpec(
            preset="nano", config={"width": 64, "ratio": 4.0, "norm": "rms", "qk": True, "id": 3}
        ),
        "router": NetworkSpec(preset="nano", config={"width": 32}),
        "training": TrainingSpec(batch_clips=4, learning_rate=1e-3),
        "gate": GateSpec(members_attest=False, attestors=(PEER,)),
        "timing": TimingSpec(),
        "train_shards": (shard(0), shard(1), shard(1, 1)),
        "gate_shards": (shard(0, 2),),
    }
    return RunSpec(**(fields | more))


def test_a_run_survives_the_wire_under_its_owners_signature() -> None:
    signed = sign_run(OWNER, spec())
    opened = open_run(signed.data, signed.id)
    assert opened.record == spec(owner=OWNER.peer_id)
    assert opened.signer == OWNER.peer_id
    config = opened.record.expert.config
    assert {name: type(value) for name, value in config.items()} == {
        "width": int,
        "ratio": float,
        "norm": str,
        "qk": bool,
        "id": int,
    }


def test_text_that_is_a_peer_id_or_a_hash_survives_too() -> None:
    odd = spec(owner=OWNER.peer_id, name=PEER, purpose="12D3Koo" + "0" * 45, data_licence="ab" * 32)
    assert open_run(sign_run(OWNER, odd).data).record == odd


def test_a_stranger_cannot_pass_a_run_off_as_their_own_by_signing_a_copy() -> None:
    good = sign_run(OWNER, spec())
    copy = seal_payload(Identity.generate(), "run", "", good.payload, good.record)
    assert copy.id == good.id
    with pytest.raises(SignatureError, match="ask another peer"):
        open_run(copy.data, good.id)


def test_a_run_that_is_not_the_invites_is_refused() -> None:
    with pytest.raises(RecordError, match="ask another peer"):
        open_run(sign_run(OWNER, spec()).data, RUN)


def test_a_run_signed_by_nobody_or_for_a_newer_reader_is_refused() -> None:
    good = sign_run(OWNER, spec())
    forged = seal_payload(OWNER, "card", "", good.payload, good.record)
    with pytest.raises(SignatureError):
        open_run(forged.data)
    with pytest.raises(VersionError):
        open_run(sign_run(OWNER, spec(oldest_reader=READER + 1)).data)
    other = seal_payload(OWNER, "run", "", encode(spec().model_dump() | {"kind": "claim"}), spec())
    with pytest.raises(RecordError, match="expected a RunSpec"):
        open_run(other.data)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_refused_as_a_record_error(data: bytes) -> None:
    with pytest.raises(RecordError):
        open_run(data)


def test_an_unknown_field_of_a_newer_owner_is_ignored() -> None:
    known = spec(owner=OWNER.peer_id)
    payload = encode(known.model_dump() | {"colour": "green"})
    assert open_run(seal_payload(OWNER, "run", "", payload, known).data).record == known


@pytest.mark.parametrize(
    "wrong",
    [
        {"train_shards": (shard(2),)},
        {"experts": 0},
        {"experts": 257},
        {"name": ""},
        {"name": "n" * 201},
        {"created_at": float("nan")},
        {"owner_node": "me"},
        {"rng_seed": -1},
        {"expert": {"preset": "nano", "config": {"width": float("inf")}}},
    ],
    ids=str,
)
def test_a_run_out_of_bounds_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        spec(**wrong)


def test_an_expert_sees_its_own_cluster_and_the_router_all() -> None:
    run = spec()
    assert run.slots == ("expert-0", "expert-1", "router")
    assert run.shards_for("expert-1", "train") == (shard(1), shard(1, 1))
    assert run.shards_for("router", "train") == run.train_shards
    assert run.shards_for("expert-0", "gate") == run.gate_shards
    assert cluster_of("expert-1") == 1


hosts = st.one_of(
    st.ip_addresses(v=4).map("/ip4/{}".format),
    st.ip_addresses(v=6).map("/ip6/{}".format),
    st.just("/dns4/node.example.org"),
)
transports = st.one_of(
    st.integers(0, 65535).map("/tcp/{}".format), st.integers(0, 65535).map("/udp/{}/quic-v1".format)
)
circuits = st.sampled_from(["", "/p2p-circuit", f"/p2p-circuit/p2p/{PEER}"])
addresses = st.builds("{}{}/p2p/{}{}".format, hosts, transports, st.just(PEER), circuits)


@given(st.lists(addresses, max_size=4))
def test_an_invite_is_one_string_that_reads_back(peers: list[str]) -> None:
    invite = Invite(run=RUN, peers=tuple(peers))
    assert " " not in str(invite)
    assert Invite.parse(f"  {invite}\n") == invite


@given(
    st.one_of(
        st.text(max_size=60),
        st.text(max_size=40).map(f"paris:{RUN}?peer=".__add__),
        st.text(max_size=70).map("paris:".__add__),
    )
)
def test_any_text_is_an_invite_or_an_invite_error(text: str) -> None:
    try:
        invite = Invite.parse(text)
    except InviteError:
        return
    assert all(peer.startswith("/") for peer in invite.peers)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not an invite"),
        ("https://example.org", "not an invite"),
        ("paris:", "64 hex digits"),
        (f"paris:{RUN[:-1]}", "64 hex digits"),
        (f"paris:{RUN.upper()}", "64 hex digits"),
        (f"paris:{RUN}?peer=1.2.3.4:5", "not a multiaddr"),
        (f"paris:{RUN}?peer=/ip4/1.2.3.4/tcp/5", "not a multiaddr"),
        (f"paris:{RUN}?peer=/ip4/1.2.3.4/tcp/99999/p2p/{PEER}", "not a multiaddr"),
        (f"paris:{RUN}?peer=/ip4/1.2.3.4,x/tcp/5/p2p/{PEER}", "not a multiaddr"),
        (f"paris:{RUN}?peer=/ip4/1.2.3.4/tcp/٥/p2p/{PEER}", "not a multiaddr"),
    ],
)
def test_a_malformed_invite_says_which_part_is_wrong(text: str, words: str) -> None:
    with pytest.raises(InviteError, match=words):
        Invite.parse(text)


def test_first_weights_are_of_a_kind_of_slot_and_survive_the_wire() -> None:
    blob = BlobRef(id="1a" * 32, size_bytes=5)
    made = sign_run(OWNER, spec(initial={"expert": blob}))
    opened = open_run(made.data, made.id).record
    assert [opened.initial_for(slot) for slot in opened.slots] == [blob, blob, None]
    assert blob in opened.data_blobs
    assert spec().initial_for("expert-0") is None
    with pytest.raises(ValidationError, match="initial"):
        spec(initial={"expert-1": blob})


BLOB = BlobRef(id="0f" * 32, size_bytes=3)


@pytest.mark.parametrize(
    "names",
    [
        ["."],
        [".."],
        [""],
        ["a/b.json"],
        ["a", "a/b"],
        ["/etc/config.json"],
        ["a\\b.json"],
        ["c:config.json"],
        ["config.json."],
        ["part.bin"],
        ["model.pt"],
        ["evil.py"],
        ["config.JSON"],
        ["Config.json", "config.json"],
        ["nul.json"],
        ["COM1.txt"],
        [".hidden.json"],
        ["a b.json"],
        ["a\u0000.json"],
        ["a\u202e.json"],
        ["-rf.json"],
        ["model.safetensors.index"],
    ],
)
def test_a_models_files_have_plain_names_that_may_be_read(names: list[str]) -> None:
    with pytest.raises(ValidationError):
        Pinned(name="transformers:x", files=dict.fromkeys(names, BLOB))
    raw = spec().model_dump() | {"owner": OWNER.peer_id}
    raw["text"] = {
        "name": "transformers:x",
        "files": dict.fromkeys(names, BLOB.model_dump()),
        "sha256": "",
        "revision": "",
    }
    data = seal_payload(OWNER, "run", "", encode(raw), spec()).data
    with pytest.raises(RecordError):
        open_run(data)


def test_a_model_of_a_hub_is_pinned_by_a_hash() -> None:
    good = Pinned(name="transformers:org/name", revision="main", sha256="0f" * 32)
    assert good.sha256
    for sha256 in ("", "main", "0F" * 32, "0f" * 31):
        with pytest.raises(ValidationError, match="is pinned by no hash"):
            Pinned(name="transformers:org/name", revision="main", sha256=sha256)
    Pinned(
        name="transformers:x",
        files={"model-00001-of-00002.safetensors": BLOB, "config.json": BLOB, "spiece.model": BLOB},
    )
