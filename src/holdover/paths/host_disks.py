"""The SCSI disks of this host by designator: which disks lead to a logical unit, and to which one."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from holdover.paths.multipath_map import map_of_disk
from holdover.paths.sgio import OpenDevice, SgIo, SgioPath
from holdover.scsi.allocation import page_command, with_more_room
from holdover.scsi.command import Command, Response
from holdover.scsi.errors import DecodeError
from holdover.scsi.inquiry import Designator, DeviceIdentification, VpdPage, best_designator
from holdover.scsi.path import PathError
from holdover.scsi.sense import describe_response

_DIRECT_ACCESS = "0"
_TIMEOUT = 10.0

IDENTIFY = page_command(VpdPage.DEVICE_IDENTIFICATION)


@dataclass(frozen=True, slots=True)
class _Known:
    """A device's designator, and which of the devices that have had this device number has it."""

    incarnation: tuple[int, int]
    designator: Designator


class HostDisks:
    """Finds disks, and remembers designators by device number.

    When a device has gone, the kernel gives its number to another device. The folder of that device in sysfs
    is a new one. So a designator is remembered together with the inode of that folder.
    """

    def __init__(self, io: SgIo, sys: Path = Path("/sys"), dev: Path = Path("/dev")) -> None:
        """``sys``: where the kernel shows its devices. ``dev``: where the nodes of the devices are."""
        self._io = io
        self._sys = sys
        self._dev = dev
        self._known: dict[tuple[str, int], _Known] = {}

    async def designator_of(self, device: OpenDevice, name: str = "descriptor") -> Designator:
        """The designator of the logical unit behind an open device; ``name`` is for errors.

        Raises:
            PathError: It is not a SCSI device, it does not answer, or it has no designator.
        """
        device.check(name)
        kind = "block" if stat.S_ISBLK(device.found.st_mode) else "char"
        number = device.found.st_rdev
        incarnation = self._incarnation(kind, number)
        known = self._known.get((kind, number))
        if known is not None and known.incarnation == incarnation:
            return known.designator
        response = await _identify(
            lambda command: self._io.execute(device, command, name, _TIMEOUT, client=name)
        )
        if not response.good:
            raise PathError(name, f"INQUIRY: {describe_response(response)}")
        designator = _best(response.data_in, name)
        if incarnation is not None:
            self._known[kind, number] = _Known(incarnation, designator)
        return designator

    async def find(self, designator: Designator) -> tuple[Path, ...]:
        """The host's disks that lead to a logical unit, one for each I_T nexus; an empty tuple if none does.

        If disks are paths of a multipath device, the result has that device in place of the disks.

        The page 83h that sysfs has cached only decides which disks are asked. What a disk answers now counts.

        Raises:
            PathError: No disk was found, and a disk that might lead there does not answer.
        """
        candidates = await asyncio.to_thread(self._candidates, designator)
        answers = await asyncio.gather(*(self._ask(each) for each in candidates), return_exceptions=True)
        found = tuple(path for path, answer in zip(candidates, answers, strict=True) if answer == designator)
        if not found:
            for answer in answers:
                if isinstance(answer, BaseException):
                    raise answer
        return found

    def forget(self) -> None:
        """Ask every device again: an array may show another logical unit at the same address."""
        self._known.clear()

    def _incarnation(self, kind: str, device: int) -> tuple[int, int] | None:
        try:
            folder = (self._sys / "dev" / kind / f"{os.major(device)}:{os.minor(device)}").stat()
        except OSError:
            return None
        return folder.st_ino, folder.st_ctime_ns

    def _candidates(self, designator: Designator) -> list[Path]:
        """The nodes of all disks that may be the one. A disk whose page 83h sysfs does not have counts."""
        found: list[Path] = []
        for folder in sorted((self._sys / "class" / "scsi_device").glob("*/device")):
            if _read(folder / "type").strip() != _DIRECT_ACCESS.encode():
                continue
            page = _read(folder / "vpd_pg83")
            if page and _best_or_none(page) != designator:
                continue
            for disk in (folder / "block").glob("*"):
                node = self._dev / (map_of_disk(disk.name, self._sys) or disk.name).replace("!", "/")
                if node not in found:
                    found.append(node)
        return found

    async def _ask(self, disk: Path) -> Designator:
        path = SgioPath(disk, self._io, _TIMEOUT)
        try:
            response = await _identify(path.execute)
        finally:
            await path.close()
        if not response.good:
            raise PathError(path.name, f"INQUIRY: {describe_response(response)}")
        return _best(response.data_in, path.name)


async def _identify(send: Callable[[Command], Awaitable[Response]]) -> Response:
    command = IDENTIFY
    response = await send(command)
    while (longer := with_more_room(command, response)) is not None:
        command = longer
        response = await send(command)
    return response


def _best(page: bytes, name: str) -> Designator:
    try:
        designator = best_designator(DeviceIdentification.decode(page).designators)
    except DecodeError as error:
        raise PathError(name, str(error)) from error
    if designator is None:
        raise PathError(name, "the LUN has no NAA, EUI-64 or T10 designator")
    return designator


def _best_or_none(page: bytes) -> Designator | None:
    try:
        return best_designator(DeviceIdentification.decode(page).designators)
    except DecodeError:
        return None


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""
