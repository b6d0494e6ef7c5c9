"""The whole life of a run that grows, on a fake network: a split, a router that learns it, a drop."""

from __future__ import annotations

import time
from pathlib import Path

from paris_p2p.envelope import seal
from paris_p2p.identity import Identity
from paris_p2p.node.generator import generating_set
from paris_p2p.node.run_node import RunNode
from paris_p2p.owner_records import AddClips, AddedShard, AddExpert, AnyChange, DropExpert, NoticeRecord
from paris_p2p.spec import ROUTER
from paris_p2p.training.messages import TrainJob
from tests.peer.test_volunteer import leads_of
from tests.peer.world import CountingTrainer, Peer, World
from tests.store.made import add_bytes

PARENT, CHILD = "expert-1", "expert-2"


class Listed(CountingTrainer):
    """Keeps every job with what its files held: they are gone when the trainer runs."""

    jobs: list[tuple[TrainJob, dict[str, str]]]

    async def start(self, job: object, *, nice: int = 0) -> None:
        await super().start(job, nice=nice)  # type: ignore[arg-type]
        named = {"parent": self.job.parent_path, "resume": self.job.resume_path}
        held = {name: path.read_text() for name, path in named.items() if path is not None}
        self.jobs.append((self.job, held))

    @classmethod
    def of(cls, slot: str) -> list[tuple[TrainJob, dict[str, str]]]:
        return [one for one in cls.jobs if one[0].slot == slot]


async def say(owner: Peer, key: Identity, *changes: AnyChange) -> None:
    node = owner.node
    for change in changes:
        chain = node.chain
        now = time.time()
        record = NoticeRecord(
            run=node.run,
            seq=chain.number + 1,
            issued_at=now,
            expires_at=now + 86400,
            previous=chain.head,
            change=change,
        )
        envelope = seal(key, record)
        node.keep(envelope)
        await node.tell(envelope)


def part(owner: Peer, name: str, *clusters: int) -> AddClips:
    """Returns train and gate shards of clusters, which the owner's node has."""
    shards = [
        AddedShard(
            split=split,
            cluster=k,
            blob=add_bytes(owner.node.host.store, f"{name} {split} {k}".encode()),
            clips=4,
        )
        for split in ("train", "gate")
        for k in clusters
    ]
    return AddClips(shards=tuple(shards))


def names(node: RunNode) -> list[str]:
    """Returns the experts that generate together, as a fetch takes them."""
    spec, cards = generating_set(node)
    assert set(cards) <= set(spec.slots)
    return [slot for slot in spec.slots if slot != ROUTER]


async def test_a_run_grows_by_an_expert_and_loses_one_and_generation_follows(tmp_path: Path) -> None:
    Listed.jobs = []
    async with World(tmp_path, experts=2) as world:
        owner = await world.add("owner", role="owner")
        for name in "abc":
            await world.add(name, trainer=Listed)

        def tips(*slots: str) -> bool:
            return all(peer.node.board.tip(slot) is not None for peer in world.peers for slot in slots)

        await world.until(lambda: tips("expert-0", PARENT, ROUTER))
        assert names(owner.node) == ["expert-0", PARENT]

        # a split: the child gets a lead, which starts as its parent was attested
        await say(owner, world.owner, AddExpert(parent=1, child=2, parts=1), part(owner, "split", 1, 2))
        await world.add("d", trainer=Listed)
        seen = set[tuple[bool, int]]()

        def grown() -> bool:
            for peer in world.peers:
                router = peer.node.board.tip(ROUTER)
                assert router is not None
                seen.add((router.card.record.notices >= 2, len(names(peer.node))))
            return tips(CHILD) and all(knows == 3 for _, knows in [max(seen)])

        await world.until(grown)
        # nobody ever generates with another set than its router's
        assert seen <= {(False, 2), (True, 3)}
        first = Listed.of(CHILD)[0]
        assert first[0].resume_path is None
        assert first[1]["parent"].startswith(f"weights {PARENT} ")
        assert (first[0].resume_steps, first[0].notices) == (0, 2)
        router = next(job for job, _ in Listed.of(ROUTER) if job.notices == 2)
        assert router.resume_experts == 2
        assert router.resume_steps > 0  # it went on where it was
        card = owner.node.board.tip(CHILD)
        assert card is not None

        # a drop: out at once, its lead goes, what it published stays
        await say(owner, world.owner, DropExpert(expert=0, parts=1), part(owner, "drop", 1, 2))
        await world.until(lambda: all(peer.node.state.number == 4 for peer in world.peers))
        assert all("expert-0" not in names(peer.node) for peer in world.peers)
        await world.until(lambda: not leads_of(world, "expert-0"))
        assert names(owner.node) == [PARENT, CHILD]

        # a newcomer finds the last checkpoint of the dropped expert, and fetches it
        late = await world.add("late", slot=CHILD)
        await world.until(lambda: late.node.board.tip("expert-0") is not None)
        kept = late.node.board.tip("expert-0")
        assert kept is not None
        (path,) = await late.node.fetch([kept.card.record.weights], kept.card.id)
        assert path.read_text().startswith("weights expert-0 ")
        assert names(late.node) == [PARENT, CHILD]
