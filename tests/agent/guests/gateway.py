"""A gateway as a guest has it, over loopback: initiator, export, device, session, target, disk in memory."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from holdover.agent.guests.device import GuestDevice
from holdover.guest.gate import Gate
from holdover.guest.machine_type import MachineType
from holdover.guest.options import DeviceOptions
from holdover.guest.scsi_block import ScsiBlock
from holdover.iscsi.initiator.initiator import IscsiInitiator
from holdover.iscsi.negotiation import NegotiationLimits
from holdover.iscsi.target.target import IscsiTarget
from holdover.iscsi.url import IscsiUrl
from holdover.paths.iscsi import InitiatorIdentity, IscsiPath, IscsiSessions, isid_of
from holdover.paths.submitted import can_forward
from tests.iscsi.pair import INITIATOR, ISID, TARGET
from tests.iscsi.ram import RamDisk

EXPORT = "iqn.2001-04.com.example:export"


@dataclass
class Gateway:
    """What stands between a guest and its disk. `guest` is logged in at the export."""

    disk: RamDisk
    target: IscsiTarget
    path: IscsiPath
    device: GuestDevice
    export: IscsiTarget
    port: int
    guest: IscsiInitiator

    async def log_in(self, name: str = INITIATOR, isid: bytes = ISID) -> IscsiInitiator:
        """Another session of the guest."""
        return await IscsiInitiator.connect("127.0.0.1", self.port, EXPORT, name, isid, ping_interval=None)

    def lose_session(self) -> None:
        """End the connection to the target, as a network does."""
        for connection in list(self.target._sessions.values()):
            connection.give_up("a test ends it")


@contextlib.asynccontextmanager
async def gateway(
    *,
    guest: NegotiationLimits | None = None,
    export: NegotiationLimits | None = None,
    target: NegotiationLimits | None = None,
    max_commands: int = 128,
) -> AsyncIterator[Gateway]:
    """Run one. The limits are those of the guest's initiator, the export and the target."""
    async with contextlib.AsyncExitStack() as stack:
        disk, sessions = RamDisk(), IscsiSessions()
        far = IscsiTarget(TARGET, {0: disk}, limits=target, max_commands=max_commands)
        port = await far.start("127.0.0.1", 0)
        stack.push_async_callback(far.close)
        url = IscsiUrl("127.0.0.1", port, TARGET, 0)
        identity = InitiatorIdentity("iqn.2001-04.com.example:agent", isid_of("guest"))
        paths: list[IscsiPath] = []

        def open_path(_: str) -> IscsiPath:
            paths.append(sessions.path(url, identity))
            return paths[-1]

        block = ScsiBlock(DeviceOptions("disk0", str(url), True), MachineType.parse("q35"), Gate.RUNNING)
        device = GuestDevice(block, str(url), open_path)
        stack.push_async_callback(device.close)
        near = IscsiTarget(EXPORT, {0: device}, limits=export)
        near_port = await near.start("127.0.0.1", 0)
        stack.push_async_callback(near.close)
        initiator = await IscsiInitiator.connect(
            "127.0.0.1", near_port, EXPORT, INITIATOR, ISID, limits=guest, ping_interval=None
        )
        stack.push_async_callback(initiator.close)
        assert can_forward(paths[0])
        yield Gateway(disk, far, paths[0], device, near, near_port, initiator)
