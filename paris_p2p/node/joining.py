"""How a newcomer gets into a run: it asks for the RunSpec, or to be let in (docs/protocol.md, "Joining")."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from paris_p2p.envelope import Envelope, decode, encode, open_envelope, parse
from paris_p2p.errors import (
    BusyError,
    InviteError,
    MissingBlobError,
    MissingKeyError,
    RecordError,
    SwarmError,
    UnreachableError,
    VersionError,
)
from paris_p2p.identity import Identity, load_or_create_peer_key
from paris_p2p.invite import Invite
from paris_p2p.key_box import KeyGift, open_gift, with_gift
from paris_p2p.keyring import Keyring, load_keyring, save_keyring
from paris_p2p.node.facing import join_name
from paris_p2p.node.host import Host, load_spec, open_host, save_spec, spec_path
from paris_p2p.node.kept_admission import is_outside
from paris_p2p.node.membership import CERTIFICATE, NAME, open_certificate
from paris_p2p.node.owners_word import notice_name
from paris_p2p.owner_records import CertificateRecord, JoinAnswer, JoinRequest, companion_bytes
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.rules.admission import REASONS
from paris_p2p.rules.chain import Chain, Notice
from paris_p2p.rules.run_state import run_state
from paris_p2p.spec import RunSpec, open_run
from paris_p2p.store.ledger import Ledger
from paris_p2p.swarm.asking import ask_side_by_side, end_tasks
from paris_p2p.veil import open_sealed, open_spec

log = logging.getLogger(__name__)
MAX_SPEC_ASKED = 32  # peers side by side
SPEC_LIMIT_S = 120.0  # 4 MiB, the longest RunSpec, over a slow line
# in a data directory: the generator's own key and lock, so that it works beside a running peer
GENERATOR_DIR = "generator"
AGAIN_S = 10.0  # between two tries to be let in
SILENT_TRIES = 3  # a node that starts is there some seconds before it serves its run
_MAX_ASKED = 16  # peers that are asked to let in, without a token
_NEW_INVITE = "ask the run's owner for a new invite"


@dataclass(frozen=True)
class Newcomer:
    """Says as whom a peer joins."""

    name: str = ""  # that the owner sees
    asks: bool = False  # the owner, where the invite has no token
    is_generator: bool = False
    other: Identity | None = None  # the machine's other key, which is let in with this one
    other_home: Path | None = None  # its data directory
    say: Callable[[str], None] = log.info
    again_s: float = AGAIN_S


async def join_run(host: Host, invite: Invite, newcomer: Newcomer = Newcomer()) -> Envelope[RunSpec]:
    """Returns the verified RunSpec of an invite, from this disk or from the first peer that has it.

    Where the invite has a token, or the newcomer asks, it is let in first, and keeps its certificate; it
    waits for those who may do so. InviteError, UnreachableError, VersionError.
    """
    known = load_spec(host.settings.data_dir, invite.run)
    wants_in = bool(invite.join) or newcomer.asks
    if known is not None and not (wants_in and is_outside(host, known, invite)):
        return known
    if wants_in:
        return await Joining(host, invite, newcomer).run()
    return await _fetch_spec(host, invite)


@asynccontextmanager
async def newcomer_host(
    settings: PeerSettings, invite: Invite, newcomer: Newcomer, **more: Any
) -> AsyncIterator[Host]:
    """Opens a host, as open_host does; a newcomer that is to be let in waits until a peer of its invite is
    there.

    UnreachableError where there is nothing to wait for: this peer is in, or asks for nothing.
    """
    waits = (bool(invite.join) or newcomer.asks) and not is_joined(settings.data_dir, invite.run)
    async with AsyncExitStack() as stack:
        while True:
            try:
                host = await stack.enter_async_context(open_host(settings, invite.peers, **more))
                break
            except UnreachableError as error:
                if not waits:
                    raise
                token = invite.usable_token(time.time())
                whom = f" by {', '.join(token.record.admitters)}" if token is not None else ""
                newcomer.say(
                    f"waiting to be let in{whom}: {error}; trying again every {newcomer.again_s:.0f} s"
                )
                await asyncio.sleep(newcomer.again_s)
        yield host


def is_joined(data_dir: Path, run: str) -> bool:
    """Tells whether a run's RunSpec is here already."""
    return spec_path(data_dir, run).exists()


def newcomer_of(
    data_dir: Path,
    *,
    name: str = "",
    asks: bool = False,
    is_generator: bool = False,
    say: Callable[[str], None] = log.info,
) -> Newcomer:
    """Returns a machine's peer as a newcomer, or its generator, each with the other's key, which is made when
    it is not there; `data_dir` is the peer's.
    """
    home = data_dir / GENERATOR_DIR
    other_home = data_dir if is_generator else home
    for folder in (data_dir, home):  # keys come into both, before a node locks them
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # parents get another mode
    other = load_or_create_peer_key(other_home / "identity.key")
    return Newcomer(name, asks, is_generator, other, other_home, say)


class Joining:
    """Asks to be let in until somebody does, or says why not."""

    def __init__(self, host: Host, invite: Invite, newcomer: Newcomer):
        self.host, self.invite, self.newcomer, self.run_id = host, invite, newcomer, invite.run
        self.token = invite.usable_token(time.time())
        self._said, self._silent = "", 0
        if self.token is not None and set(self.token.record.rights) == {"store"}:
            raise InviteError(
                "this invite lets in a node that stores for the run, and nothing else; start one with "
                "`paris-bootstrap serve --admit INVITE`, or ask the run's owner for another invite"
            )

    async def run(self) -> Envelope[RunSpec]:
        while True:
            answers: dict[str, str] = {}  # peer -> why it did not let us in
            for peer in await self._admitters():
                run, why = await self._ask(peer)
                if run is not None:
                    return run
                answers[peer] = why
            self._say(self._account(answers))
            await asyncio.sleep(self.newcomer.again_s)
            self.invite.usable_token(time.time())  # its time may be over by now

    async def _admitters(self) -> list[str]:
        """Returns the peers that may let us in; whom a token names, or else all that are there."""
        me = self.host.identity.peer_id
        if self.token is not None:
            return [peer for peer in self.token.record.admitters if peer != me]
        invited = [address.rsplit("/p2p/", 1)[-1] for address in self.invite.peers]
        connected = [peer.peer_id for peer in await self.host.swarm.peers()]
        return [peer for peer in dict.fromkeys((*invited, *connected)) if peer != me][:_MAX_ASKED]

    async def _ask(self, peer: str) -> tuple[Envelope[RunSpec] | None, str]:
        """Returns the run that a peer lets us into, or why it does not."""
        try:
            name = join_name(self.run_id, peer)
            data = await self.host.swarm.ask(peer, "join", name, self._request(peer))
            answer = parse(JoinAnswer, decode(data))
        except MissingBlobError:
            return None, "silent"
        except BusyError:
            return None, "busy"
        except (SwarmError, RecordError) as error:
            log.info("%s cannot be asked: %s", peer, error)
            return None, "away"
        if answer.why:
            return None, answer.why
        try:
            return await asyncio.to_thread(self._enter, peer, answer), ""
        except VersionError:
            raise
        except RecordError as error:
            log.warning("%s lets us in with what does not hold: %s", peer, error)
            return None, "nonsense"

    def _request(self, peer: str) -> bytes:
        newcomer, me = self.newcomer, self.host.identity.peer_id
        other = newcomer.other
        request = JoinRequest(
            token=self.invite.join,
            name=newcomer.name,
            is_generator=newcomer.is_generator,
            other=other.peer_id if other is not None else "",
            proof=other.sign(companion_bytes(self.run_id, me)) if other is not None else b"",
        )
        return encode(request.model_dump(exclude_defaults=True))

    def _enter(self, peer: str, answer: JoinAnswer) -> Envelope[RunSpec]:
        """Checks what let us in, and keeps it; RecordError."""
        run = open_run(answer.spec, self.run_id)
        me, other = self.host.identity.peer_id, self.newcomer.other
        own = self._certificate(answer.certificate, me)
        second = self._certificate(answer.other_certificate, other.peer_id) if other is not None else None
        ring, chain = self._read(run, answer)
        held = [one for one in (own, second) if one is not None]
        state = run_state(self.run_id, run.record, chain.notices, time.time(), held)
        if not state.is_member(me):
            raise RecordError(f"{peer} lets us in, and may not by what the run's owner said")
        home = self.host.settings.data_dir
        self._keep(home, run, own, ring, chain)
        other_home = self.newcomer.other_home
        if second is not None and other_home is not None and not is_joined(other_home, run.id):
            self._keep(other_home, run, second, Keyring(ring.keys), chain)
        return run

    def _certificate(self, data: bytes, peer: str) -> Envelope[CertificateRecord] | None:
        if not data:
            return None  # a notice admits this peer
        certificate = open_certificate(self.run_id, data)
        if certificate.record.peer != peer:
            raise RecordError(f"the certificate is of {certificate.record.peer}, and this is {peer}")
        return certificate

    def _read(self, run: Envelope[RunSpec], answer: JoinAnswer) -> tuple[Keyring, Chain]:
        """Returns the keys and the notices that came with the answer, each checked by those before it: a
        notice that revokes names the key that the next ones are sealed under. RecordError.
        """
        spec, chain, ring = run.record, Chain(self.run_id, run.record.owner), Keyring()
        gift = open_gift(self.host.identity, answer.keys) if answer.keys else KeyGift()
        left = list(answer.notices)
        while True:
            named = run_state(self.run_id, spec, chain.notices, time.time()).key_hashes
            ring, before = with_gift(ring, gift, named, spec.gate.key_hash), len(left)
            while left:
                try:
                    chain = chain.add(self._open_notice(left[0], ring, spec))
                except MissingKeyError:
                    break
                del left[0]
            if len(left) == before:  # the last notice may have named one more key
                break
        if spec.private and not ring.keys:
            raise RecordError("no key of the run came with the answer")
        return ring, chain

    def _open_notice(self, data: bytes, ring: Keyring, spec: RunSpec) -> Notice:
        if spec.private:
            return open_sealed(data, ring, self.run_id, ("notice",))
        return open_envelope(data, run=self.run_id, kinds=("notice",))

    def _keep(
        self,
        home: Path,
        run: Envelope[RunSpec],
        certificate: Envelope[CertificateRecord] | None,
        ring: Keyring,
        chain: Chain,
    ) -> None:
        folder = spec_path(home, run.id).parent
        ledger = Ledger(folder / "ledger")
        for notice in chain.notices:
            ledger.put(notice_name(notice.record.seq), notice.data)
        if certificate is not None:
            ledger.put(CERTIFICATE, certificate.data)
        if self.newcomer.name:
            ledger.put(NAME, self.newcomer.name.encode())
        if ring.keys or ring.gate:
            save_keyring(folder, ring)
        save_spec(home, run)  # last: with it the run counts as joined

    def _account(self, answers: dict[str, str]) -> str:
        """Returns what a person is told while it waits; InviteError when there is nothing to wait for."""
        waits = {peer: why for peer, why in answers.items() if why in ("away", "busy", "nonsense")}
        told = [f"{peer}: {REASONS.get(why, why)}" for peer, why in answers.items() if why in REASONS]
        if "denied" in answers.values():
            raise InviteError(f"not let in: {REASONS['denied']}")
        if self.token is None:
            return _asked_words(answers)
        silent = [peer for peer, why in answers.items() if why == "silent"]
        told += [
            f"{peer}: it does not serve this run, or the invite's maker may not let in any more"
            for peer in silent
        ]
        self._silent = self._silent + 1 if silent else 0
        if not waits and 0 < self._silent < SILENT_TRIES:
            return (
                f"waiting to be let in: {', '.join(silent)} does not serve this run, or not yet; "
                f"trying again every {self.newcomer.again_s:.0f} s"
            )
        if not waits:
            raise InviteError(f"not let in: {'; '.join(told) or 'the invite names nobody'}; {_NEW_INVITE}")
        who = ", ".join(f"{peer} ({_WAITS[why]})" for peer, why in waits.items())
        others = f"; {'; '.join(told)}" if told else ""
        return f"waiting to be let in by {who}; trying again every {self.newcomer.again_s:.0f} s{others}"

    def _say(self, words: str) -> None:
        if words != self._said:
            self._said = words
            self.newcomer.say(words)


_WAITS = {
    "away": "it cannot be reached",
    "busy": "it is busy with others",
    "nonsense": "its answer does not hold",
}


def _asked_words(answers: dict[str, str]) -> str:
    left = [peer for peer, why in answers.items() if why not in _WAITS]
    away = [peer for peer, why in answers.items() if why in _WAITS]
    if not answers:
        return "waiting for the run's owner: nobody is connected yet whom to ask"
    where = f"asked {', '.join(left)}, of whom those answer who may" if left else "nobody could be asked yet"
    missing = f"; not reached: {', '.join(away)}" if away else ""
    return (
        "waiting for the run's owner or a delegate of its to let this peer in (they see it in "
        f"`paris-run requests`): {where}{missing}"
    )


async def _fetch_spec(host: Host, invite: Invite) -> Envelope[RunSpec]:
    """Returns the RunSpec of a run that lets this peer in as it is: an open one, or one that names it."""
    asked = [peer.peer_id for peer in await host.swarm.peers()]
    invited = [address.rsplit("/p2p/", 1)[-1] for address in invite.peers]

    ring = load_keyring(spec_path(host.settings.data_dir, invite.run).parent)

    async def spec_of(peer: str) -> Envelope[RunSpec]:
        if not ring.keys:
            return open_run(await host.swarm.fetch_spec(peer, invite.run), invite.run)
        # A private run's, whose keys are here: members know it by another name, and send it sealed.
        data = await host.swarm.fetch_spec(peer, ring.veiled_run)
        return open_run(await asyncio.to_thread(open_spec, data, ring), invite.run)

    peers = [peer for peer in dict.fromkeys([*invited, *asked]) if peer != host.identity.peer_id][
        :MAX_SPEC_ASKED
    ]
    answers = await ask_side_by_side(
        {peer: partial(spec_of, peer) for peer in peers}, enough=1, limit_s=SPEC_LIMIT_S
    )
    await end_tasks(answers.late.values())
    for run in answers.good.values():
        save_spec(host.settings.data_dir, run)
        return run
    for error in answers.failed.values():
        if isinstance(error, VersionError):  # a stranger's word, perhaps a lie: so nobody had the run itself
            raise error
    reasons = [f"{peer[-8:]}: {error}" for peer, error in answers.failed.items()]
    reasons += [f"{peer[-8:]}: no RunSpec in {SPEC_LIMIT_S:.0f} s" for peer in answers.late]
    raise UnreachableError(
        f"reached {len(asked)} peers, none of them has run {invite.run[:16]}… "
        f"({'; '.join(reasons)[:400] or 'no peer answered'}); "
        "ask the run's owner whether `paris-run publish` is running, or for a newer invite; "
        "a run for members only needs an invite with a join token, or --ask"
    )
