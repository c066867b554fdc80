"""The record of the disks that an operator has attached to exports, or detached from them."""

from __future__ import annotations

from pathlib import Path

import msgspec

from holdover.agent.state_file import StateFile
from holdover.config.agent_file import ConfigError, GuestConfig


class DiskChanges(msgspec.Struct, kw_only=True):
    """The changes of one guest's disks since the agent's file was written.

    Attributes:
        attached: By LUN number: the device, in QEMU's syntax. It may contain a password.
        detached: By LUN number: the device that the agent's file has there, which the guest has no more.
    """

    attached: dict[int, str] = {}
    detached: dict[int, str] = {}


def numbered(guest: GuestConfig, changes: DiskChanges, file: Path) -> dict[int, str]:
    """The devices of a guest by LUN number: those of the agent's file, and what was changed since.

    A change counts as long as the file has the same device at that number as at the time of the change.

    Raises:
        ConfigError: The file has another disk at the number of one that was attached.
    """
    devices = {
        number: device
        for number, device in enumerate(guest.devices)
        if changes.detached.get(number) != device
    }
    for number, device in changes.attached.items():
        if devices.get(number, device) != device:
            raise ConfigError(
                f"guest {guest.name}: LUN {number} is another disk in the agent's file than the one that "
                f"was attached while the agent ran; write the attached one there, or remove it from {file}"
            )
        devices[number] = device
    return dict(sorted(devices.items()))


class DiskRecord:
    """The changes of all guests, in a file in the agent's state folder."""

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            ConfigError: The file cannot be read. Without it a guest might get other disks than before.
        """
        self._file = StateFile(folder / "disks.json")
        self._changes = _read(self._file.file)

    def devices(self, guest: GuestConfig) -> dict[int, str]:
        """The devices of a guest by LUN number, in QEMU's syntax. Raises as `numbered`."""
        return numbered(guest, self._changes.get(guest.name, DiskChanges()), self._file.file)

    async def attach(self, guest: GuestConfig, number: int, device: str) -> None:
        """Put on record that a guest has a device.

        Raises:
            OSError: It cannot be written; the record is as before.
        """
        changes = self._copy(guest)
        if number < len(guest.devices) and guest.devices[number] == device:
            changes.detached.pop(number, None)
        else:
            changes.attached[number] = device
        await self._replace(guest, changes)

    async def detach(self, guest: GuestConfig, number: int, device: str) -> None:
        """Put on record that a guest has this device at that number no more. Raises as `attach`."""
        changes = self._copy(guest)
        if number < len(guest.devices) and guest.devices[number] == device:
            changes.detached[number] = device
        changes.attached.pop(number, None)
        await self._replace(guest, changes)

    async def settle(self, guest: GuestConfig) -> None:
        """Forget the changes that the agent's file has taken over since. Raises as `attach`."""
        known, own = self._copy(guest), dict(enumerate(guest.devices))
        left = DiskChanges(
            attached={number: each for number, each in known.attached.items() if own.get(number) != each},
            detached={number: each for number, each in known.detached.items() if own.get(number) == each},
        )
        if left != known:
            await self._replace(guest, left)

    def _copy(self, guest: GuestConfig) -> DiskChanges:
        known = self._changes.get(guest.name, DiskChanges())
        return DiskChanges(attached=dict(known.attached), detached=dict(known.detached))

    async def _replace(self, guest: GuestConfig, changes: DiskChanges) -> None:
        everything = {**self._changes, guest.name: changes}
        await self._file.write(msgspec.json.encode(everything))
        self._changes = everything


def _read(file: Path) -> dict[str, DiskChanges]:
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, DiskChanges])
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(
            f"{file}: the record of attached and detached disks cannot be read: {error}; without it a guest "
            "might get other disks than before. Restore it, or remove it and attach the disks again"
        ) from error
