"""Run inside a kernel of the rig: SG_IO of ours beside sg3-utils', on one LUN through three nexuses.

Writes what it sees to the file that is its argument; what it should see is `test_kernel_sgio`'s to say.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from holdover.paths.host_disks import HostDisks
from holdover.paths.sgio import OpenDevice, SgIo, SgioPath
from holdover.scsi.cdbs.cdb import PersistentReserveIn, TestUnitReady
from holdover.scsi.cdbs.opcodes import InServiceAction, OutServiceAction, ReservationType
from holdover.scsi.command import Command, Response
from holdover.scsi.path import AnswerLost, PathError
from holdover.scsi.reservation.reservation_out import in_command, out_command
from holdover.scsi.sense import describe_response
from tests.rig.kernel_programs import Shell

DISKS = [Path("/dev/sda"), Path("/dev/sdb"), Path("/dev/sdc")]
LENGTHS = [4, 8, 12, 24, 60, 255, 8192]
_ACTIONS = [0, 1, 2, 3, 4, 31]
_KEYS = [0xA, 0xB, 0xC]


class Nexuses:
    """The disks, as paths of ours; `say` is one command and its end in words."""

    def __init__(self, io: SgIo) -> None:
        self.paths = [SgioPath(disk, io) for disk in DISKS]

    async def out(
        self,
        nexus: int,
        action: OutServiceAction,
        key: int = 0,
        new: int = 0,
        kind: ReservationType | None = None,
        aptpl: bool = False,
    ) -> str:
        command = out_command(action, key, new, type=kind, aptpl=aptpl)
        return describe_response(await self.paths[nexus].execute(command))

    async def ready(self, nexus: int) -> str:
        return describe_response(await self.paths[nexus].execute(Command(TestUnitReady().encode())))

    async def close(self) -> None:
        for path in self.paths:
            await path.close()


def sg_raw(shell: Shell, disk: Path, command: Command, folder: Path) -> tuple[int, str]:
    """The exit status of sg_raw and, in hexadecimal, the data that came."""
    output = folder / "sg_raw"
    output.write_bytes(b"")
    cdb = [f"{byte:02x}" for byte in command.cdb]
    arguments = ["-r", str(command.data_in_length), "-o", str(output), str(disk), *cdb]
    status = shell.run(["sg_raw", *arguments])
    return status, output.read_bytes().hex()


def shown(response: Response) -> list[str]:
    return [describe_response(response), response.data_in.hex(), response.sense.hex()]


async def compare(nexuses: Nexuses, shell: Shell, folder: Path, state: str) -> list[dict[str, Any]]:
    """Every PERSISTENT RESERVE IN service action, by us and by sg_raw, from the first nexus."""
    found = []
    for action in _ACTIONS:
        for length in LENGTHS:
            command = Command(PersistentReserveIn(action, length).encode(), data_in_length=length)
            ours = await nexuses.paths[0].execute(command)
            status, theirs = sg_raw(shell, DISKS[0], command, folder)
            case = {"state": state, "action": action, "length": length, "ours": shown(ours)}
            found.append({**case, "sg_raw": [status, theirs]})
    return found


async def states(nexuses: Nexuses, shell: Shell, folder: Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The comparison in every kind of state, and how the commands ended that led there."""
    register = OutServiceAction.REGISTER
    ends: dict[str, str] = {}
    found = await compare(nexuses, shell, folder, "nobody is registered")
    ends["register"] = await nexuses.out(0, register, 0, _KEYS[0])
    found += await compare(nexuses, shell, folder, "one is registered")
    for nexus in (1, 2):
        await nexuses.out(nexus, register, 0, _KEYS[nexus], aptpl=nexus == 1)
    found += await compare(nexuses, shell, folder, "three are registered")
    for kind in (ReservationType.WRITE_EXCLUSIVE, ReservationType(5), ReservationType(8)):
        ends[f"reserve {kind}"] = await nexuses.out(0, OutServiceAction.RESERVE, _KEYS[0], kind=kind)
        found += await compare(nexuses, shell, folder, f"reserved, type {kind}")
        ends[f"release {kind}"] = await nexuses.out(0, OutServiceAction.RELEASE, _KEYS[0], kind=kind)
        # releasing a reservation of registrants leaves unit attentions with the others
        for nexus in (1, 2):
            await nexuses.ready(nexus)
    ends["wrong key"] = await nexuses.out(0, register, 0xBAD, 1)
    ends["wrong type"] = await nexuses.out(0, OutServiceAction.RESERVE, _KEYS[0], kind=None)
    await nexuses.out(1, OutServiceAction.RESERVE, _KEYS[1], kind=ReservationType.WRITE_EXCLUSIVE)
    ends["reserved by another"] = await nexuses.out(
        0, OutServiceAction.RESERVE, _KEYS[0], kind=ReservationType.WRITE_EXCLUSIVE
    )
    ends["preempt"] = await nexuses.out(
        2, OutServiceAction.PREEMPT, _KEYS[2], _KEYS[1], ReservationType.WRITE_EXCLUSIVE
    )
    ends["preempted, first"] = await nexuses.ready(1)
    ends["preempted, second"] = await nexuses.ready(1)
    ends["clear"] = await nexuses.out(2, OutServiceAction.CLEAR, _KEYS[2])
    return found, ends


async def by_other_names(io: SgIo, folder: Path) -> dict[str, str]:
    """READ FULL STATUS through every kind of name: the LUN says the same."""
    link = folder / "by-id"
    link.symlink_to(DISKS[0])
    said = {}
    for name in (DISKS[0], Path("/dev/sg0"), link):
        path = SgioPath(name, io)
        response = await path.execute(in_command(InServiceAction.READ_FULL_STATUS, 4096))
        said[name.name] = shown(response)[1]
        await path.close()
    return said


async def designators(io: SgIo) -> dict[str, Any]:
    """Which LUN a disk is, and which disks a LUN has."""
    disks = HostDisks(io)
    descriptors = [os.open(each, os.O_RDONLY | os.O_NONBLOCK) for each in ("/dev/sda", "/dev/sg1")]
    found = [await disks.designator_of(OpenDevice.of(each, "disk")) for each in descriptors]
    for each in descriptors:
        os.close(each)
    return {
        "designators": [str(each) for each in found],
        "disks": [str(each) for each in await disks.find(found[0])],
    }


def without_the_capability(shell: Shell, folder: Path) -> str:
    """What SG_IO says to somebody who may open the disk and no more."""
    script = folder / "unprivileged.py"
    script.write_text(
        "import asyncio, os\n"
        "from holdover.paths.sgio import SgIo\n"
        "from holdover.scsi.path import PathError\n"
        "from holdover.scsi.reservation.reservation_out import in_command\n"
        "disk = os.open('/dev/sda', os.O_RDWR)\n"
        "os.setgroups([])\nos.setresgid(65534, 65534, 65534)\nos.setresuid(65534, 65534, 65534)\n"
        "try:\n    asyncio.run(SgIo(1).execute(disk, in_command(0), 'disk'))\n"
        "except PathError as error:\n    print(type(error).__name__, error)\n"
    )
    output = folder / "unprivileged.said"
    shell.run([sys.executable, str(script)], str(output))
    return output.read_text().strip()


async def gone(io: SgIo) -> list[str]:
    """What a disk says that is taken away while it is open, and its name then."""
    path = SgioPath(DISKS[2], io)
    command = in_command(InServiceAction.READ_KEYS, 64)
    await path.execute(command)
    await asyncio.to_thread(Path("/sys/block/sdc/device/delete").write_text, "1")
    said = []
    for _ in range(2):
        try:
            said.append(describe_response(await path.execute(command)))
        except AnswerLost as error:
            said.append(f"in doubt: {error}")
        except PathError as error:
            said.append(f"not sent: {error}")
    return said


async def main() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        shell = Shell()  # before there are threads
        io = SgIo(8)
        nexuses = Nexuses(io)
        compared, ends = await states(nexuses, shell, Path(folder))
        await nexuses.ready(0)  # told that it was cleared
        await nexuses.out(0, OutServiceAction.REGISTER, 0, _KEYS[0])
        observed = {
            "compared": compared,
            "ends": ends,
            "names": await by_other_names(io, Path(folder)),
            "designators": await designators(io),
            "unprivileged": without_the_capability(shell, Path(folder)),
        }
        await nexuses.close()
        observed["gone"] = await gone(io)
        io.close()
        shell.close()
    return observed


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(asyncio.run(main())))
