"""The routes of the agent's API about the disks of exports. `Hotplug` decides everything."""

from __future__ import annotations

from collections.abc import Sequence

from litestar import post
from litestar.handlers import BaseRouteHandler
from litestar.params import FromPath, JSONBody

from holdover.agent.api_description import GUESTS, NOT_DONE
from holdover.agent.hotplug.hotplug import Hotplug
from holdover.api.placement_documents import AttachDisk, DetachDisk, PlacementResult


def hotplug_routes(hotplug: Hotplug) -> Sequence[BaseRouteHandler]:
    """The handlers of the routes that attach and detach disks."""

    @post(
        "/guests/{name:str}/attach-disk",
        status_code=200,
        tags=[GUESTS],
        responses=NOT_DONE,
        operation_id="attach_disk",
    )
    async def attach(name: FromPath[str], data: JSONBody[AttachDisk]) -> PlacementResult:
        """Give the export of a guest one more disk."""
        return await hotplug.attach(name, data)

    @post(
        "/guests/{name:str}/detach-disk",
        status_code=200,
        tags=[GUESTS],
        responses=NOT_DONE,
        operation_id="detach_disk",
    )
    async def detach(name: FromPath[str], data: JSONBody[DetachDisk]) -> PlacementResult:
        """Take a disk away from the export of a guest."""
        return await hotplug.detach(name, data)

    return (attach, detach)
