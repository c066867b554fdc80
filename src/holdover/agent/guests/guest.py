"""A guest on this host: its devices, and the target that exports them, if there is one."""

from __future__ import annotations

from pathlib import Path

from holdover.agent.guests.device import GuestDevice
from holdover.api.documents import DeviceState, ExportSecret, GuestState, SessionState
from holdover.config.agent_file import Limits
from holdover.guest.gate import Gate
from holdover.guest.machine_type import MachineType
from holdover.iscsi.chap import ChapCredentials
from holdover.iscsi.target.target import IscsiTarget
from holdover.scsi.reservation.key import registered_key_text


class HostedGuest:
    """One guest: its devices in the order of their LUN numbers, and the target that exports them, if any."""

    def __init__(
        self,
        name: str,
        host: str,
        machine_type: MachineType,
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
        self._machine = machine_type

    @property
    def machine_type(self) -> str:
        """The machine type of the guest's QEMU."""
        return str(self._machine)

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings about this guest for the agent's operator."""
        unsaid = any(device.block.options.migrate_pr is None for device in self.devices)
        if self._machine.known or not unsaid:
            return ()
        return (
            f"guest {self.name}: the version of QEMU that machine type {self.machine_type} stands for is not "
            "known; migrate-pr is off and its reservations stay when it moves; set migrate-pr=on or off on "
            f'the device in the agent\'s file, or by [[rule]] guest = "{self.name}" migrate-pr = "on"',
        )

    @property
    def luns(self) -> dict[int, GuestDevice]:
        """The devices by LUN number: that of the export, or else the place among the devices."""
        return {
            place if device.number is None else device.number: device
            for place, device in enumerate(self.devices)
        }

    def number_of(self, device: GuestDevice) -> int:
        """The LUN number of a device."""
        return self.devices.index(device) if device.number is None else device.number

    def state(self) -> GuestState:
        """The document that `holdover status` shows."""
        return GuestState(
            name=self.name,
            host=self._host,
            machine_type=self.machine_type,
            export=self.export,
            devices=tuple(self._device_state(lun, device) for lun, device in self.luns.items()),
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
            key=registered_key_text(tracked.key),
            type=None if tracked.type is None else int(tracked.type),
            scope=tracked.scope,
            aptpl=tracked.aptpl,
            stale=device.block.stale,
            in_flight=device.in_flight,
            held=device.held,
            report=device.report,
        )

    def export_secret(self, credentials: ChapCredentials | None, file: Path) -> ExportSecret | None:
        """What the guest's QEMU needs to log in; None for a guest without an export.

        ``file`` has the secret of ``credentials``.
        """
        if self.target is None:
            return None
        return ExportSecret(
            portal=self.export.removeprefix("iscsi://").partition("/")[0],
            target=self.target.iqn,
            luns=tuple(device.block.options.id or f"lun{lun}" for lun, device in self.luns.items()),
            numbers=tuple(self.luns),
            user=None if credentials is None else credentials.user,
            secret=None if credentials is None else credentials.secret,
            file=None if credentials is None else str(file),
        )

    @property
    def has_departed(self) -> bool:
        """Whether the guest is on another host, or on none: the gates of all its devices are departed."""
        return bool(self.devices) and all(each.block.gate is Gate.DEPARTED for each in self.devices)

    def move_gates(self, gate: Gate) -> None:
        """Set the gate of every device whose gate is not ``gate`` yet."""
        for device in self.devices:
            if device.block.gate is not gate:
                device.move_gate(gate)

    async def close(self) -> None:
        """End the export and close the paths to the LUNs."""
        if self.target is not None:
            await self.target.close()
        for device in self.devices:
            await device.close()
