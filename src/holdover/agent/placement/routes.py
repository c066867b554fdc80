"""The routes of the agent's API about the place of guests. `Placement` decides everything."""

from __future__ import annotations

from collections.abc import Sequence

from litestar import Request, get, post
from litestar.datastructures import State
from litestar.handlers import BaseRouteHandler
from litestar.params import FromPath, JSONBody

from holdover.agent.api_description import AGENT, BAD, GUESTS, NOT_DONE, PEERS
from holdover.agent.placement.placement import Placement
from holdover.api.migration_documents import GuestStarted, SendRequest, StartRequest
from holdover.api.placement_documents import (
    Declaration,
    HostDeclaration,
    HostList,
    PlaceAnswer,
    PlacementResult,
    PlaceQuestion,
)
from holdover.pki.tls import certified_name


def placement_routes(placement: Placement) -> Sequence[BaseRouteHandler]:
    """The handlers of the routes about the place of guests."""

    @post(
        "/guests/{name:str}/start",
        status_code=200,
        tags=[GUESTS],
        responses=NOT_DONE,
        operation_id="start_guest",
    )
    async def start(name: FromPath[str], data: JSONBody[StartRequest]) -> GuestStarted:
        """Bring a guest that runs nowhere to this host."""
        return await placement.start(name, data)

    @post("/peer/guest", status_code=200, tags=[PEERS], responses=BAD, operation_id="send_guest")
    async def send(request: Request[object, object, State], data: JSONBody[SendRequest]) -> SendRequest:
        """Hand over a guest that does not run here to the agent that asks."""
        await placement.send(data, certified_name(request.scope) or "")
        return data

    @post("/peer/place", status_code=200, tags=[PEERS], responses=BAD, operation_id="ask_place")
    async def place(request: Request[object, object, State], data: JSONBody[PlaceQuestion]) -> PlaceAnswer:
        """Say whether a guest is here, to an agent on whose host it may start."""
        return placement.receive(data, certified_name(request.scope) or "")

    @post(
        "/guests/{name:str}/release",
        status_code=200,
        tags=[GUESTS],
        responses=NOT_DONE,
        operation_id="release_guest",
    )
    async def release(name: FromPath[str]) -> PlacementResult:
        """Remove the registrations by this host of a guest that does not run from its LUNs."""
        return await placement.release(name)

    @post(
        "/guests/{name:str}/forget",
        status_code=200,
        tags=[GUESTS],
        responses=NOT_DONE,
        operation_id="forget_guest",
    )
    async def forget(name: FromPath[str]) -> PlacementResult:
        """Remove a guest that has nothing from this agent's record."""
        return await placement.forget(name)

    @get("/hosts", tags=[AGENT], responses=BAD, operation_id="list_hosts")
    async def hosts() -> HostList:
        """The peers of this host, whether they answer, and which are declared dead."""
        return await placement.list_hosts()

    @post(
        "/hosts/{name:str}/declaration",
        status_code=200,
        tags=[AGENT],
        responses=NOT_DONE,
        operation_id="declare_host",
    )
    async def declare(
        request: Request[object, object, State], name: FromPath[str], data: JSONBody[HostDeclaration]
    ) -> HostList:
        """Put on record that a peer is dead, so that its guests may be taken, or that it is alive again."""
        return await placement.declare(name, data, certified_name(request.scope) or data.by or "an operator")

    @post("/peer/declaration", status_code=200, tags=[PEERS], responses=BAD, operation_id="tell_declaration")
    async def told(request: Request[object, object, State], data: JSONBody[Declaration]) -> Declaration:
        """Hear whether the host that tells has declared this one dead."""
        await placement.hear_declaration(data, certified_name(request.scope) or "")
        return data

    return (start, send, place, release, forget, hosts, declare, told)
