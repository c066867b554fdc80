"""A LUN in this process, reached as one I_T nexus."""

from __future__ import annotations

from holdover.scsi.command import Command, DeviceServer, Response
from holdover.scsi.nexus import ITNexus


class LocalPath:
    """A path that ends in a device server of this process."""

    def __init__(self, device: DeviceServer, nexus: ITNexus, name: str = "local") -> None:
        self._device = device
        self._nexus = nexus
        self._name = name

    @property
    def name(self) -> str:
        """The name given at construction."""
        return self._name

    @property
    def nexuses(self) -> int:
        """One."""
        return 1

    async def execute(self, command: Command) -> Response:
        """Carry out one command on the device server; never raises PathError."""
        return await self._device.execute(self._nexus, command)

    async def close(self) -> None:
        """Nothing to let go of: the device server belongs to whoever made it."""
