"""The route of the agent's API by which hosts ask each other about libvirt's guests."""

from __future__ import annotations

from collections.abc import Sequence

from litestar import Request, post
from litestar.datastructures import State
from litestar.handlers import BaseRouteHandler
from litestar.params import JSONBody

from holdover.agent.api_description import BAD, PEERS
from holdover.agent.libvirt.arbiter import Arbiter
from holdover.api.libvirt_documents import GuestAnswer, GuestQuestion
from holdover.pki.tls import certified_name


def libvirt_routes(arbiter: Arbiter) -> Sequence[BaseRouteHandler]:
    """The handlers of the routes about libvirt's guests."""

    @post("/peer/libvirt", status_code=200, tags=[PEERS], responses=BAD, operation_id="ask_about_guest")
    async def asked(request: Request[object, object, State], data: JSONBody[GuestQuestion]) -> GuestAnswer:
        """A question about a guest of libvirt's."""
        return await arbiter.asked(data, certified_name(request.scope) or "")

    return (asked,)
