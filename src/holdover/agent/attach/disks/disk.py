"""A guest's disk as its QEMU has it: the device behind a descriptor that came through the helper's socket.

The agent opens the device again through the descriptor and never duplicates the descriptor. A duplicate
shares QEMU's locks on the file, and would keep the guest's next QEMU from opening its disk. The agent opens
the device in the descriptor's mode: a descriptor for reading alone never becomes one that changes
reservations. While the guest's process runs, the device stays open. After that the agent opens it when there
is something to do, and closes it after some idle time, so that the host can take the disk away.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from holdover.paths.host_disks import HostDisks
from holdover.paths.multipath import nexuses_of
from holdover.paths.sgio import OpenDevice, SgIo
from holdover.scsi.command import Command, Response
from holdover.scsi.inquiry import Designator
from holdover.scsi.path import PathError

_IDLE_SECONDS = 60.0
_FLAGS = os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_READ_ONLY = frozenset({errno.EACCES, errno.EROFS})
"""The errors of a write-protected disk."""


@dataclass(frozen=True, slots=True)
class Disk:
    """One SCSI device of this host: /dev/sdX, /dev/sgN or a multipath device.

    Attributes:
        kind: The type of file, as in st_mode.
        number: The device number, as in st_rdev.
    """

    kind: int
    number: int

    @classmethod
    def of(cls, found: os.stat_result) -> Disk:
        """The device that a file stands for."""
        return cls(stat.S_IFMT(found.st_mode), found.st_rdev)

    def __str__(self) -> str:
        return f"device {os.major(self.number)}:{os.minor(self.number)}"

    def node(self, sys: Path = Path("/sys"), dev: Path = Path("/dev")) -> Path:
        """The device's file.

        Raises:
            PathError: The host does not have the device any more.
        """
        try:
            said = (self._folder(sys) / "uevent").read_text(encoding="ascii")
        except OSError as error:
            raise PathError(str(self), "this host does not have it any more") from error
        names = [line.removeprefix("DEVNAME=") for line in said.splitlines() if line.startswith("DEVNAME=")]
        if not names:
            raise PathError(str(self), "the kernel does not say its name")
        return dev / names[0]

    def address(self, sys: Path = Path("/sys")) -> str | None:
        """Host, channel, target and LUN, "2:0:1:0"; all devices of an I_T nexus to a LUN share it."""
        try:
            return (self._folder(sys) / "device").resolve(strict=True).name
        except OSError:
            return None

    def _folder(self, sys: Path) -> Path:
        kind = "block" if stat.S_ISBLK(self.kind) else "char"
        return sys / "dev" / kind / f"{os.major(self.number)}:{os.minor(self.number)}"


class DiskPath:
    """A path to the LUN behind a disk; it checks that whatever it opens is that LUN."""

    def __init__(
        self,
        disk: Disk | None,
        designator: Designator,
        disks: HostDisks,
        io: SgIo,
        *,
        certain: bool = True,
        access: int = os.O_RDWR,
        idle: float = _IDLE_SECONDS,
    ) -> None:
        """``disk``: The disk; None for the host's disk of that LUN, which is looked for when it is needed.

        ``certain``: Whether only that disk may be used. Otherwise, if that disk turns out to be another LUN,
        the path looks for the right one: after a restart, a host gives its disks new names.
        ``access``: What the guest may do with the disk. It is O_RDWR if the record says that the guest has
        reserved there, or if a host announces that; otherwise it is what the guest's descriptor may do. A
        later descriptor may add to that.
        ``idle``: After so many seconds without a command, a disk that nobody holds is closed.
        """
        self.disk = disk
        self._designator = designator
        self._disks = disks
        self._io = io
        self._idle = idle
        self._certain = certain
        self._name = str(designator) if disk is None else name_of(disk)
        self._descriptor: int | None = None
        self._held = False
        self._access = access
        self._opening = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def name(self) -> str:
        """The disk's file when it was last opened."""
        return self._name

    @property
    def nexuses(self) -> int:
        """The number of paths of a multipath device; 1 for any other disk."""
        return nexuses_of(Path(self._name))

    @property
    def writable(self) -> bool:
        """Whether the guest may write to the disk, and so change reservations, as far as it has shown."""
        return self._access != os.O_RDONLY

    def holds(self, opened: OpenDevice) -> bool:
        """Whether this disk is held open until `release`, and for writing if the descriptor is."""
        held = self._held and self._descriptor is not None and self.disk == Disk.of(opened.found)
        return held and (self.writable or opened.access == os.O_RDONLY)

    def has_open(self, number: tuple[int, int]) -> bool:
        """Whether the disk of this type and number is held open until `release`. Any thread may call this."""
        # Read the disk last: a held disk is set before its descriptor.
        held = self._held and self._descriptor is not None
        disk = self.disk
        return held and disk is not None and (disk.kind, disk.number) == number

    async def hold(self, opened: OpenDevice) -> None:
        """Open the disk behind a descriptor, and keep it open until `release`.

        Raises:
            PathError: The disk cannot be opened, or is another LUN.
        """
        async with self._opening:
            opened.check(self.name)
            if self.holds(opened):
                return
            disk, access = Disk.of(opened.found), opened.access
            if self.writable and access == os.O_RDONLY:
                access = self._access
                fresh = await self._open(disk.node(), disk, access)
            else:
                fresh = await self._open(Path(f"/proc/self/fd/{opened.descriptor}"), disk, access)
            self._close()
            self.disk, self._descriptor, self._held, self._certain = disk, fresh, True, True
            self._access = access

    def release(self) -> None:
        """The guest's process has gone: close the disk, and open it again only when there is work."""
        self._held = False
        self._close()

    async def execute(self, command: Command) -> Response:
        """Carry out one command.

        Raises:
            PathError: The disk cannot be opened, or the command was not sent.
            AnswerLost: The command was sent and has no answer.
        """
        if self._descriptor is None:
            async with self._opening:
                if self._descriptor is None:
                    self._descriptor = await self._open_again()
        descriptor = self._descriptor
        try:
            return await self._io.execute(descriptor, command, self.name, client=self)
        except PathError:
            # The device number may now mean another disk.
            if self._descriptor == descriptor:
                self._close()
            raise
        finally:
            self._rest()

    async def close(self) -> None:
        """Close the disk; commands under way have a descriptor of their own."""
        self.release()

    async def _open_again(self) -> int:
        disk, descriptor = self.disk, None
        if disk is not None:
            try:
                descriptor = await self._open(disk.node(), disk, self._access)
            except PathError:
                if self._certain:
                    raise
        if disk is None or descriptor is None:
            disk = await self._look_for()
            descriptor = await self._open(disk.node(), disk, self._access)
        self.disk, self._certain = disk, True
        return descriptor

    async def _look_for(self) -> Disk:
        files = await self._disks.find(self._designator)
        if len(files) != 1:
            found = " and ".join(str(file) for file in files) or "no disk"
            raise PathError(str(self._designator), f"this host has {found} of this LUN; one is needed")
        return Disk.of(await asyncio.to_thread(files[0].stat))

    async def _open(self, file: Path, disk: Disk, access: int) -> int:
        name = str(file if file.parts[1] == "dev" else disk)
        opened = await asyncio.to_thread(_open_device, file, name, access)
        try:
            if Disk.of(opened.found) != disk:
                raise PathError(name, f"is no longer {disk}")
            designator = await self._disks.designator_of(opened, name)
            if designator != self._designator:
                raise PathError(name, f"is LUN {designator} now, and was {self._designator}")
        except BaseException:
            os.close(opened.descriptor)
            raise
        self._name = name_of(disk)
        return opened.descriptor

    def _rest(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._held and self._descriptor is not None:
            self._timer = asyncio.get_running_loop().call_later(self._idle, self._close)

    def _close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)


def name_of(disk: Disk) -> str:
    """A disk's file, or its number if the host does not have the disk any more."""
    try:
        return str(disk.node())
    except PathError:
        return str(disk)


def _open_device(file: Path, name: str, access: int) -> OpenDevice:
    """Open a device for SG_IO, for reading alone if the disk is write-protected."""
    descriptor = _open_file(file, name, access)
    try:
        return OpenDevice.of(descriptor, name)
    except PathError:
        os.close(descriptor)
        raise


def _open_file(file: Path, name: str, access: int) -> int:
    try:
        return os.open(file, access | _FLAGS)
    except OSError as error:
        if access != os.O_RDWR or error.errno not in _READ_ONLY:
            raise PathError(name, error.strerror or str(error)) from error
    try:
        return os.open(file, os.O_RDONLY | _FLAGS)
    except OSError as error:
        raise PathError(
            name,
            f"{error.strerror}; the agent must be allowed to open the guests' disks (root, or group disk)",
        ) from error
