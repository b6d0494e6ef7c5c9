"""`paris-peer start` and `paris-run publish` open the host, join, show what the run asks for, and leave in
good order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from paris_p2p.dashboard.links import page_link
from paris_p2p.dashboard.serving import dashboard_of
from paris_p2p.disk import free_bytes
from paris_p2p.envelope import Envelope
from paris_p2p.errors import ParisError, PresetError, RecordError, UsageError
from paris_p2p.handed_word import HandedWord
from paris_p2p.invite import Invite
from paris_p2p.monitoring.watched import watched_peer
from paris_p2p.node.control import serve_control
from paris_p2p.node.healing import heal_questions
from paris_p2p.node.host import Host, open_host
from paris_p2p.node.invite_peers import keep_invite_peers
from paris_p2p.node.joining import join_run, newcomer_host, newcomer_of
from paris_p2p.node.owner_desk import OwnerDesk
from paris_p2p.node.run_look import line_questions
from paris_p2p.node.run_node import RunNode, opened
from paris_p2p.node.signals import on_leave_signals
from paris_p2p.peer.energy import metering
from paris_p2p.peer.kept_changes import KeptChanges
from paris_p2p.peer.previews import preview_device, previewing
from paris_p2p.peer.profiles import Profile
from paris_p2p.peer.settings import check_device
from paris_p2p.peer.summary import check_disk, describe_run
from paris_p2p.peer.view import Console
from paris_p2p.peer.volunteer import Role, Volunteer
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.shown import put, say
from paris_p2p.spec import RunSpec
from paris_p2p.swarm.addresses import for_invite
from paris_p2p.training.needs import clip_tokens, parameter_count


def run_peer(
    changes: KeptChanges,
    invite: Invite,
    *,
    confirm: Callable[[str], Awaitable[bool]] | None,
    train: bool = True,
    profile: Profile | None = None,
    name: str = "",
    asks: bool = False,
) -> None:
    """Volunteers in a run until stopped; `confirm` is asked with what the run wants, None means yes.

    Where the run is for members only, a token lets this peer in, or (`asks`) its owner, who sees the `name`.
    Raises PresetError, before anything is fetched, when the expert of the run does not fit the profile.
    """
    settings = changes.settings
    check_device(settings.device)

    async def life() -> None:
        say(f"joining run {invite.run[:16]}… through {len(invite.peers)} addresses of its invite")
        newcomer = newcomer_of(settings.data_dir, name=name, asks=asks, say=say)
        async with newcomer_host(settings, invite, newcomer) as host:
            run = await join_run(host, invite, newcomer)
            free = free_bytes(settings.data_dir) + host.store.used_bytes()
            if profile is not None and train:
                host.settings = fit_run(settings, profile, run.record)
            question = describe_run(run, settings)
            try:
                check_disk(run.record, settings, train=train, free_bytes=free)
            except ParisError:
                put(question)
                raise
            if confirm is None:
                put(question)
            elif not await confirm(question):
                raise ParisError("not joined; nothing was fetched but the run's description")
            keep_invite_peers(settings.data_dir, for_invite(invite.peers, host.swarm.addresses()))
            await live(host, run, "peer" if train else "generator", changes=changes)

    asyncio.run(life())


def run_owner(
    settings: PeerSettings,
    run: Envelope[RunSpec],
    bootstrap_peers: tuple[str, ...],
    ready: Callable[[Invite], None],
    *,
    invite_uses: int = 64,
    invite_s: float = 30 * 86400.0,
    kept: HandedWord | None = None,
) -> None:
    """Seeds a run as its owner's node, attests, and hands the invite to `ready`.

    That of a members-only run has a token that lets in `invite_uses` machines within `invite_s`.
    `kept` holds notices that were signed while this node was away.
    """

    async def life() -> None:
        own_bytes = sum(ref.size_bytes for ref in run.record.data_blobs)
        async with open_host(settings, bootstrap_peers, own_bytes=own_bytes) as host:
            own = host.swarm.addresses()
            announced = [address for address in own if address.rpartition("/p2p/")[0] in settings.announce]
            peers = for_invite((*bootstrap_peers, *announced), own)
            keep_invite_peers(settings.data_dir, peers)

            async def announce(node: RunNode) -> None:
                token = b""
                if run.record.members_only:
                    token = node.admitter.own_token(invite_uses, invite_s).data
                ready(Invite(run=run.id, peers=peers, join=token))

            await live(host, run, "owner", announce, kept)

    asyncio.run(life())


async def live(
    host: Host,
    run: Envelope[RunSpec],
    role: Role,
    on_open: Callable[[RunNode], Awaitable[None]] | None = None,
    kept: HandedWord | None = None,
    changes: KeptChanges | None = None,
) -> None:
    """Runs a Volunteer with its control API, its view and its signals."""
    async with opened(host, run) as node:
        console, desk = Console(), OwnerDesk(node)
        if kept is not None:
            await _take_kept(desk, kept, console.say)
        check_slot(node.spec, host.settings.slot)  # not before: notices may have added it
        if role == "peer":  # the first count loads libraries for seconds: not between a node's answers
            await asyncio.to_thread(parameter_count, node.spec, node.spec.slots[0])
        volunteer = Volunteer(node, host.settings, role=role, say=console.say, kept=changes)
        actions = {"pause": volunteer.pause, "resume": volunteer.resume, "stop": volunteer.leave}
        questions = desk.questions | heal_questions(node) | line_questions(node)
        if role != "owner":  # whose node works by the run's word
            questions = {**questions, "set": volunteer.change}
        async with (
            dashboard_of(node, volunteer.status) as dashboard,
            serve_control(
                host.settings.data_dir, volunteer.status, actions, questions, [dashboard.pages]
            ) as url,
            watched_peer(host.settings, volunteer.status, host.swarm, console.say),
            metering(node, lambda: volunteer.working.training if volunteer.working else None),
            previewing(node, host.settings.preview_minutes, preview_device(role, host.settings), console.say),
        ):
            _leave_on_signals(volunteer)
            if on_open is not None:
                await on_open(node)
            if host.settings.dashboard:
                console.say(f"the dashboard: {page_link(url, dashboard.code())}")
            viewing = asyncio.create_task(console.show(volunteer.status))
            try:
                await volunteer.run()
            finally:
                dashboard.end()
                viewing.cancel()
                with suppress(asyncio.CancelledError):
                    await viewing


async def _take_kept(desk: OwnerDesk, kept: HandedWord, say: Callable[[str], None]) -> None:
    """Takes the notices of the run's folder; those that do not fit are said, and stop nothing."""
    try:
        await desk.take(kept)
    except (UsageError, RecordError) as error:
        say(f"the notices in the run's folder are not told: {error}")


def _leave_on_signals(volunteer: Volunteer) -> None:
    """Has the first Ctrl-C, SIGTERM or SIGHUP publish, release and leave; a second Ctrl-C leaves at once."""
    leaving: list[asyncio.Task[str]] = []

    def leave() -> None:
        first = "publishing the last checkpoint first; " if volunteer.lead is not None else ""
        volunteer.say(f"leaving: {first}Ctrl-C again leaves at once")
        leaving.append(asyncio.create_task(volunteer.leave()))

    on_leave_signals(leave, lambda: volunteer.say("leaving at once"))


def fit_run(settings: PeerSettings, profile: Profile, spec: RunSpec) -> PeerSettings:
    """Returns settings with the micro-batch that a profile has for this expert, unless one was given."""
    micro_batch = profile.micro_batch_clips(spec.expert.preset, clip_tokens(spec))
    return (
        settings
        if settings.micro_batch_clips
        else settings.model_copy(update={"micro_batch_clips": micro_batch})
    )


def check_slot(spec: RunSpec, slot: str) -> None:
    if slot and slot not in spec.slots:
        raise PresetError(f"--slot {slot!r}: this run has {', '.join(spec.slots)}")
