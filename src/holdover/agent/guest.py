"""A guest on this host: its devices and the target that exports them, if one does."""

from __future__ import annotations

from holdover.agent.api import DeviceState, GuestState, SessionState
from holdover.agent.config import Limits
from holdover.agent.device import GuestDevice
from holdover.guest.gate import Gate
from holdover.guest.machine import MachineType
from holdover.iscsi.target import IscsiTarget

__all__ = ["HostedGuest"]


class HostedGuest:
    """One guest: devices in the order of their LUN numbers, and the target that exports them, if one does."""

    def __init__(
        self,
        name: str,
        host: str,
        machine: MachineType,
        devices: list[GuestDevice],
        target: IscsiTarget | None,
        limits: Limits,
    ) -> None:
        self.name = name
        self.export = ""
        self.devices = devices
        self.target = target
        self.limits = limits
        self._host = host
        self._machine = machine

    @property
    def machine(self) -> str:
        """The machine type of its QEMU."""
        return str(self._machine)

    def state(self) -> GuestState:
        """What `holdover status` shows."""
        return GuestState(
            name=self.name,
            host=self._host,
            machine=self.machine,
            export=self.export,
            devices=tuple(self._device_state(lun, device) for lun, device in enumerate(self.devices)),
            sessions=self._sessions(),
        )

    def _sessions(self) -> tuple[SessionState, ...]:
        if self.target is None:
            return ()
        return tuple(SessionState(initiator=session.initiator) for session in self.target.sessions())

    def _device_state(self, lun: int, device: GuestDevice) -> DeviceState:
        tracked = device.tracked
        return DeviceState(
            id=device.block.options.id or f"lun{lun}",
            lun=lun,
            drive=device.name,
            designator=str(device.designator) if device.designator else None,
            migrate_pr=device.block.migrate_pr,
            gate=device.block.gate.value,
            key=tracked.key,
            type=None if tracked.type is None else int(tracked.type),
            scope=tracked.scope,
            aptpl=tracked.aptpl,
            stale=device.block.stale,
            in_flight=device.in_flight,
            held=device.held,
            report=device.report,
        )

    def move_gates(self, gate: Gate) -> None:
        """Set the gate of every device that stands otherwise."""
        for device in self.devices:
            if device.block.gate is not gate:
                device.move_gate(gate)

    async def close(self) -> None:
        """End the export and let go of the LUNs."""
        if self.target is not None:
            await self.target.close()
        for device in self.devices:
            await device.close()
