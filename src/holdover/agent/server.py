"""The agent's API over HTTP. It is thin: `Handovers` and the modules below it make every decision."""

from __future__ import annotations

import time
from collections.abc import Awaitable
from functools import partial

import msgspec
from litestar import Litestar, Request, get, post
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.handlers import BaseRouteHandler
from litestar.params import FromPath, JSONBody
from litestar.plugins import PluginProtocol
from litestar.plugins.core import MsgspecDIPlugin
from litestar.types import Scope

from holdover.agent.api_description import (
    BAD,
    GUESTS,
    HANDOVER,
    NO_GUEST,
    NOT_DONE,
    PEERS,
    openapi_config,
)
from holdover.agent.guests.guest import HostedGuest
from holdover.agent.guests.loop_throttle import request_throttle
from holdover.agent.guests.registrants import registrants_of
from holdover.agent.history_routes import history_routes
from holdover.agent.host import Host
from holdover.agent.hotplug.routes import hotplug_routes
from holdover.agent.libvirt.routes import libvirt_routes
from holdover.agent.migration_routes import migration_routes
from holdover.agent.monitoring.monitor import Monitor
from holdover.agent.monitoring.routes import monitoring_routes
from holdover.agent.placement.routes import placement_routes
from holdover.agent.problem_answers import Forbidden, NotThere, exception_handlers, no_such_guest
from holdover.api.access import is_known, refusal
from holdover.api.documents import (
    ExportSecret,
    GuestRegistrants,
    GuestState,
    HandoverRequest,
    HandoverState,
    HostState,
    PeerMessage,
    PeerState,
    PrepareRequest,
)
from holdover.api.request_bounds import LARGEST_BODY
from holdover.api.screening import Screen
from holdover.handover.protocol import Answer
from holdover.handover.states import Event
from holdover.pki.tls import CALLER, CHARGE, Credentials, certified_name


class _Litestar(Litestar):
    """Litestar with the plugins that the routes need: none for pydantic, whose import takes long while guests
    wait for an agent that is restarted."""

    @staticmethod
    def _get_default_plugins(plugins: list[PluginProtocol]) -> list[PluginProtocol]:
        return [*plugins, MsgspecDIPlugin()]


def application(host: Host, credentials: Credentials | None, monitor: Monitor) -> Screen:
    """The API of ``host``, for any ASGI server; ``credentials`` are the host's own."""

    def names_at(scope: Scope) -> tuple[str, ...] | None:
        return None if certified_name(scope) is None or credentials is None else credentials.names

    def refusal_of(scope: Scope) -> str | None:
        name = certified_name(scope)
        if is_known(host.config, name):
            return None
        host.measurements.refused["request"] += 1
        scope["state"][CHARGE]()
        return refusal(host.config, name, str(scope.get("method")), scope["path"])

    def find(name: str) -> HostedGuest:
        guest = host.guests.get(name)
        if guest is None:
            raise no_such_guest(host, name)
        return guest

    def guard(
        connection: ASGIConnection[BaseRouteHandler, object, object, State], _: BaseRouteHandler
    ) -> None:
        scope = connection.scope
        why = refusal(host.config, certified_name(scope), str(scope.get("method")), scope["path_template"])
        if why is not None:
            raise Forbidden(why)

    async def in_turn(request: Request[object, object, State]) -> None:
        await request_throttle().wait()
        name = request.path_params.get("name")
        if request.method == "POST" and name in host.guests:
            what = request.scope["path_template"].partition("{name}/")[2]
            host.history.asked(name, f"asked for {what}", request.scope["state"].get(CALLER, ""))

    @get("/guests", sync_to_thread=False, tags=[GUESTS], responses=BAD, operation_id="list_guests")
    def guests() -> HostState:
        """The state of the host and of all its guests."""
        return host.state()

    @get(
        "/guests/{name:str}",
        sync_to_thread=False,
        tags=[GUESTS],
        responses=NO_GUEST,
        operation_id="get_guest",
    )
    def guest_state(name: FromPath[str]) -> GuestState:
        """The state of one guest."""
        return host.guest_state(find(name))

    @get("/guests/{name:str}/registrants", tags=[GUESTS], responses=NO_GUEST, operation_id="get_registrants")
    async def registrants(name: FromPath[str]) -> GuestRegistrants:
        """What the LUNs of a guest say of their registrations now. Asking changes nothing."""
        guest = find(name)
        return await registrants_of(guest, host.config.name, host.config.limits.step)

    @get(
        "/guests/{name:str}/secret",
        sync_to_thread=False,
        tags=[GUESTS],
        responses=NO_GUEST,
        operation_id="get_export_secret",
    )
    def export_secret(name: FromPath[str]) -> ExportSecret:
        """What a guest's QEMU needs to log in to the guest's export."""
        secret = host.export_secret(find(name))
        if secret is None:
            raise NotThere(
                f"guest {name} has no export on {host.config.name}: its QEMU comes by a helper's socket, "
                "which knows it without a secret",
                name,
            )
        return secret

    @get(
        "/guests/{name:str}/handover",
        sync_to_thread=False,
        tags=[HANDOVER],
        responses=NO_GUEST,
        operation_id="get_handover",
    )
    def newest(name: FromPath[str]) -> HandoverState:
        """The guest's newest handover on this host."""
        state = host.handovers.state(find(name).name)
        if state is None:
            raise NotThere(f"guest {name} has not been handed over from or to {host.config.name}", name)
        return state

    async def timed(what: Awaitable[HandoverState]) -> HandoverState:
        started = time.perf_counter()
        state = await what
        return msgspec.structs.replace(state, milliseconds=(time.perf_counter() - started) * 1000)

    step = partial(post, status_code=200, tags=[HANDOVER], responses=NOT_DONE)

    @step("/guests/{name:str}/handover/prepare", operation_id="prepare_handover")
    async def prepare(name: FromPath[str], data: JSONBody[PrepareRequest]) -> HandoverState:
        """Begin a handover to a peer. Answers when it is prepared. May be repeated."""
        return await timed(host.handovers.prepare(find(name).name, data.handover_id, data.to, data.stale))

    @step("/guests/{name:str}/handover/commit", operation_id="commit_handover")
    async def commit(name: FromPath[str], data: JSONBody[HandoverRequest]) -> HandoverState:
        """Move all reservations. The guest has stopped. May be repeated."""
        return await timed(host.handovers.ask(find(name).name, data.handover_id, Event.ASKED_COMMIT))

    @step("/guests/{name:str}/handover/rollback", operation_id="roll_back_handover")
    async def roll_back(name: FromPath[str], data: JSONBody[HandoverRequest]) -> HandoverState:
        """Keep the guest on the source. May be repeated."""
        event = Event.ASKED_ALONE if data.alone else Event.ASKED_ROLL_BACK
        return await timed(host.handovers.ask(find(name).name, data.handover_id, event))

    @step("/guests/{name:str}/handover/finish", operation_id="finish_handover")
    async def finish(name: FromPath[str], data: JSONBody[HandoverRequest]) -> HandoverState:
        """End the handover. The guest runs on the destination. May be repeated."""
        return await timed(host.handovers.ask(find(name).name, data.handover_id, Event.ASKED_FINISH))

    @step("/guests/{name:str}/handover/take", operation_id="take_handover")
    async def take(name: FromPath[str], data: JSONBody[HandoverRequest]) -> HandoverState:
        """Move everything here, because the source is dead. May be repeated."""
        state = await timed(host.handovers.take(find(name).name, data.handover_id))
        await host.migrations.run_taken(name)
        return state

    @post(
        "/peer/handover", status_code=200, tags=[PEERS], responses=BAD, operation_id="send_handover_message"
    )
    async def receive(request: Request[object, object, State], data: JSONBody[PeerMessage]) -> Answer:
        """A message of a handover from one agent to another."""
        sender = certified_name(request.scope)
        if sender is None:
            raise Forbidden("only a peer host may send this, with its certificate")
        return await host.handovers.receive(data, sender)

    @get(
        "/peer/handover/{handover_id:str}",
        sync_to_thread=False,
        tags=[PEERS],
        responses=BAD,
        operation_id="get_peer_handover",
    )
    def peer_state(handover_id: FromPath[str]) -> PeerState:
        """The state of a handover whose source is this agent."""
        return host.handovers.peer_state(handover_id)

    litestar = _Litestar(
        route_handlers=[
            guests,
            guest_state,
            registrants,
            export_secret,
            newest,
            prepare,
            commit,
            roll_back,
            finish,
            take,
            receive,
            peer_state,
            *migration_routes(host),
            *libvirt_routes(host.libvirt.arbiter),
            *monitoring_routes(monitor),
            *history_routes(host),
            *placement_routes(host.placement),
            *hotplug_routes(host.hotplug),
        ],
        guards=[guard],
        before_request=in_turn,
        exception_handlers=exception_handlers(host),
        request_max_body_size=LARGEST_BODY,
        openapi_config=openapi_config(),
        logging_config=None,
    )
    return Screen(litestar, host.config.name, names_at, refusal_of)
