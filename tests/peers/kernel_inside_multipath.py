"""Run inside a kernel of the rig: a real multipath device over two nexuses of a LUN, and a third nexus.

Writes what it sees to the file that is its argument; what it should see is `test_kernel_multipath`'s to say.
"""

from __future__ import annotations

import asyncio
import json
import mmap
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from holdover.paths.host_disks import HostDisks
from holdover.paths.sgio import OpenDevice, SgIo, SgioPath, carry_out
from holdover.scsi.cdbs.opcodes import InServiceAction, OutServiceAction, ReservationType
from holdover.scsi.command import Command, Response
from holdover.scsi.inquiry import Designator
from holdover.scsi.path import PathError
from holdover.scsi.reservation.reservation_in import FullStatus
from holdover.scsi.reservation.reservation_out import in_command, out_command
from holdover.scsi.reservation.transport_id import SasTransportID
from holdover.scsi.sense import describe_response, is_unit_attention
from tests.docs.typist import lines_of
from tests.helper.client import HelperClient
from tests.rig.kernel_multipath import DEVICE, Multipathd, await_true
from tests.rig.kernel_programs import Shell, start_program
from tests.systemd.units import read_unit

LUN = "naa.600140500000001f00d0000000000000"
_THIRD = "/dev/sdc"
_DISKS = {"sda": "/dev/sda", "sdb": "/dev/sdb"}
K, L, C = 0xA, 0xB, 0xC
WE, WE_RO = ReservationType.WRITE_EXCLUSIVE, ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY
Act = OutServiceAction
_SOCKET, _QEMU, _GUEST = Path("/run/ours.sock"), Path("/run/qemu.sock"), Path("/run/db1.sock")
_NOBODY = 65534
_AGENT = Path("/run/agent.toml")
_AGENT_FILE = f"""
name = "host-a"
initiator = "iqn.2026-11.org.example:host-a"
state-dir = "/run/agent.state"
[api]
listen = "unix:/run/agent.sock"
[helper]
group = "{_NOBODY}"
[[guest]]
name = "db1"
machine = "pc-q35-7.2"
helper = "{_GUEST}"
devices = ["scsi-block,id=disk0,drive={DEVICE},migrate-pr=on"]
"""


def send(device: str, command: Command) -> Response:
    descriptor = os.open(device, os.O_RDWR | os.O_NONBLOCK)
    try:
        return carry_out(OpenDevice(descriptor, os.fstat(descriptor)), command, device, 10.0)
    finally:
        os.close(descriptor)


def past_attentions(device: str, command: Command) -> Response:
    while is_unit_attention(response := send(device, command)):
        pass
    return response


def registrants(by: str = _THIRD) -> list[str]:
    """Who is registered: disk, key, and a star where it holds the reservation."""
    answer = past_attentions(by, in_command(InServiceAction.READ_FULL_STATUS))
    found = []
    for each in FullStatus.decode(answer.data_in).descriptors:
        assert isinstance(each.transport_id, SasTransportID)
        disk = "sd" + "?abcdef"[each.transport_id.sas_address[-1]]
        found.append(f"{disk} {each.key:x}{'*' if each.holder else ''}")
    return sorted(found)


def write(device: str) -> str:
    """One block, past every cache."""
    block = mmap.mmap(-1, 4096)
    descriptor = os.open(device, os.O_WRONLY | os.O_DIRECT)
    try:
        os.pwrite(descriptor, block, 0)
    except OSError as error:
        return os.strerror(error.errno or 0)
    finally:
        os.close(descriptor)
    return "written"


class Scene:
    """The device, its multipathd, and what was seen of them, by name."""

    def __init__(self) -> None:
        self.shell = Shell()  # before there are threads
        self.multipathd = Multipathd(self.shell, left_out=("sdc",))
        self.seen: dict[str, Any] = {}

    def out(
        self,
        action: OutServiceAction,
        key: int = 0,
        new: int = 0,
        kind: ReservationType | None = None,
        aptpl: bool = False,
        device: str = DEVICE,
    ) -> str:
        """One command, how it ended, and who is registered then."""
        try:
            response = send(device, out_command(action, key, new, type=kind, aptpl=aptpl))
            if device != DEVICE and is_unit_attention(response):
                response = past_attentions(device, out_command(action, key, new, type=kind, aptpl=aptpl))
        except PathError as error:
            return f"{type(error).__name__}: {error}"
        return f"{describe_response(response)}: {', '.join(registrants())}"

    def mpathpersist(self, *options: str) -> str:
        """The program, its exit status, and who is registered then."""
        status = self.shell.run(["mpathpersist", "--out", *options, DEVICE])
        return f"{status}: {', '.join(registrants())}"

    def key(self) -> str:
        """What multipathd would register a new path with."""
        return f"{self.multipathd.ask('getprkey map mpatha')} {self.multipathd.ask('getprstatus map mpatha')}"

    def clear(self) -> None:
        """Nobody is registered, nobody is owed a unit attention, multipathd knows no key."""
        past_attentions(_THIRD, out_command(Act.REGISTER_AND_IGNORE_EXISTING_KEY, 0, C))
        past_attentions(_THIRD, out_command(Act.CLEAR, C))
        for disk in (*_DISKS.values(), _THIRD):
            past_attentions(disk, in_command(InServiceAction.READ_KEYS))
        self.multipathd.ask("unsetprstatus map mpatha")
        self.multipathd.ask("unsetprkey map mpatha")

    def path_goes(self, disk: str) -> None:
        Path(f"/sys/block/{disk}/device/state").write_text("offline\n")
        await_true(lambda: f"{disk}|ready" not in self.multipathd.ask("list paths raw format %d|%T"))

    def path_comes(self, disk: str) -> None:
        Path(f"/sys/block/{disk}/device/state").write_text("running\n")
        await_true(lambda: f"{disk}|ready" in self.multipathd.ask("list paths raw format %d|%T"))


def story(scene: Scene) -> list[Any]:
    """Register, reserve, release, with a third nexus beside it."""
    out = scene.out
    return [
        out(Act.REGISTER, 0, C, device=_THIRD),
        out(Act.REGISTER, 0, K, aptpl=True),
        scene.key(),
        out(Act.REGISTER, 0, K),
        out(Act.REGISTER, L, K),
        out(Act.RESERVE, K, kind=WE_RO),
        out(Act.RESERVE, L, kind=WE_RO),
        out(Act.RELEASE, K, kind=WE),
        out(Act.RELEASE, L, kind=WE_RO),
        out(Act.REGISTER, K, L),
        scene.key(),
        out(Act.PREEMPT, L, L, WE_RO),
        out(Act.RELEASE, L, kind=WE_RO),
        out(Act.PREEMPT, L, C, WE_RO),
        out(Act.REGISTER_AND_IGNORE_EXISTING_KEY, 0, K),
        out(Act.REGISTER, K, 0),
        scene.key(),
    ]


def writes(scene: Scene) -> dict[str, str]:
    """Who may write while the device holds a reservation for registrants."""
    scene.out(Act.REGISTER, 0, K)
    scene.out(Act.RESERVE, K, kind=WE_RO)
    return {device: write(device) for device in (DEVICE, *_DISKS.values(), _THIRD)}


def one_path_fails(scene: Scene) -> dict[str, Any]:
    """The path that holds the reservation goes, and comes back."""
    scene.out(Act.REGISTER, 0, K)
    found: dict[str, Any] = {"before": scene.out(Act.RESERVE, K, kind=WE_RO)}
    scene.path_goes("sda")
    found["read"] = describe_response(send(DEVICE, in_command(InServiceAction.READ_KEYS)))
    found["reserve"] = scene.out(Act.RESERVE, K, kind=WE_RO)
    found["release"] = scene.out(Act.RELEASE, K, kind=WE_RO)
    scene.path_comes("sda")
    await_true(lambda: f"sda {K:x}" in registrants())
    found["back"] = registrants()
    return found


def path_comes_back(scene: Scene) -> dict[str, Any]:
    """A device is registered while a path is away: multipathd registers it when it is back."""
    scene.path_goes("sdb")
    found: dict[str, Any] = {"registered": scene.out(Act.REGISTER, 0, K)}
    scene.path_comes("sdb")
    await_true(lambda: f"sdb {K:x}" in registrants())
    found["back"] = registrants()
    scene.path_goes("sdb")
    found["unregistered"] = scene.out(Act.REGISTER, K, 0)
    scene.path_comes("sdb")
    time.sleep(1.5)  # longer than it takes above
    found["not again"] = registrants()
    return found


def a_path_lacks_it(scene: Scene) -> dict[str, Any]:
    """One path has lost its registration unseen."""
    found: dict[str, Any] = {}
    asked: dict[str, Callable[[], str]] = {
        "ours": lambda: scene.out(Act.REGISTER, K, K),
        "mpathpersist": lambda: scene.mpathpersist("--register", "--param-rk=a", "--param-sark=a"),
    }
    for name, ask in asked.items():
        scene.clear()
        scene.out(Act.REGISTER, 0, K)
        scene.out(Act.RESERVE, K, kind=WE_RO)
        scene.out(Act.REGISTER, K, 0, device=_DISKS["sdb"])
        found[name] = ask()
    return found


def a_wrong_release(scene: Scene) -> dict[str, Any]:
    """RELEASE of another type than the reservation's, beside a third registrant."""
    found: dict[str, Any] = {}
    asked: dict[str, Callable[[], str]] = {
        "ours": lambda: scene.out(Act.RELEASE, K, kind=WE),
        "mpathpersist": lambda: scene.mpathpersist("--release", "--param-rk=a", "--prout-type=1"),
    }
    for name, ask in asked.items():
        scene.clear()
        scene.out(Act.REGISTER, 0, C, device=_THIRD)
        scene.out(Act.REGISTER, 0, K)
        scene.out(Act.RESERVE, K, kind=WE_RO)
        found[name] = ask()
    return found


def beside_mpathpersist(scene: Scene) -> dict[str, list[str]]:
    """What both do, from the same beginning: who is registered after each step, and multipathd's key."""
    reg, ign, res, rel = Act.REGISTER, Act.REGISTER_AND_IGNORE_EXISTING_KEY, Act.RESERVE, Act.RELEASE
    steps: list[tuple[tuple[Any, ...], tuple[str, ...]]] = [
        ((reg, 0, K), ("--register", "--param-sark=a")),
        ((res, K, 0, WE_RO), ("--reserve", "--param-rk=a", "--prout-type=5")),
        ((reg, K, L), ("--register", "--param-rk=a", "--param-sark=b")),
        ((rel, L, 0, WE_RO), ("--release", "--param-rk=b", "--prout-type=5")),
        ((ign, 0, K), ("--register-ignore", "--param-sark=a")),
        ((Act.PREEMPT, K, C, WE), ("--preempt", "--param-rk=a", "--param-sark=c", "--prout-type=1")),
        ((res, K, 0, WE), ("--reserve", "--param-rk=a", "--prout-type=1")),
        ((reg, K, 0), ("--register", "--param-rk=a", "--param-sark=0")),
        ((reg, 0, L), ("--register", "--param-sark=b")),
        ((Act.CLEAR, L), ("--clear", "--param-rk=b")),
    ]
    found: dict[str, list[str]] = {}
    for name, run in (
        ("ours", lambda ours, _: scene.out(*ours).replace("GOOD", "0")),
        ("mpathpersist", lambda _, theirs: scene.mpathpersist(*theirs)),
    ):
        scene.clear()
        scene.out(reg, 0, C, device=_THIRD)
        found[name] = [f"{run(*each)}; {scene.key()}" for each in steps]
    return found


def through_the_helpers(scene: Scene) -> dict[str, Any]:
    """The device's descriptor, sent to our helper and to QEMU's."""
    unit = read_unit("holdover-pr-helper.service")
    activate = ["systemd-socket-activate", f"-EPYTHONPATH={os.environ['PYTHONPATH']}", "-l", str(_SOCKET)]
    helpers = [
        start_program([*unit.limits, *activate, sys.executable, "-m", "holdover", *unit.arguments]),
        start_program(["qemu-pr-helper", "-k", str(_QEMU)]),
    ]
    await_true(lambda: _SOCKET.exists() and _QEMU.exists())
    descriptor = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK)
    found: dict[str, Any] = {"registered": {}, "reads": {}, "failing": []}
    clients = {"ours": HelperClient(_SOCKET), "qemu": HelperClient(_QEMU)}
    for name, client in clients.items():
        scene.clear()
        command = out_command(Act.REGISTER, 0, K)
        reply = client.run(descriptor, command.cdb, command.data_out)
        found["registered"][name] = [reply.status, registrants()]
    scene.clear()
    scene.out(Act.REGISTER, 0, K, aptpl=True)
    scene.out(Act.RESERVE, K, kind=WE_RO)
    for action in (0, 1, 2, 3, 4):
        for length in (8, 24, 8192):
            command = in_command(InServiceAction(action) if action < 4 else InServiceAction.READ_KEYS, length)
            cdb = bytes([command.cdb[0], action, *command.cdb[2:]])
            replies = {name: client.run(descriptor, cdb) for name, client in clients.items()}
            found["reads"][f"{action}, {length} bytes"] = {
                name: [each.status, each.payload.hex(), each.sense.hex()] for name, each in replies.items()
            }
    wrong = [
        out_command(Act.REGISTER, 0xBAD, 1),
        out_command(Act.RESERVE, 0xBAD, type=WE),
        out_command(Act.RESERVE, K, type=None),
        out_command(Act.CLEAR, 0xBAD),
        out_command(Act.PREEMPT, 0xBAD, K, type=WE),
    ]
    for command in wrong:
        reply = clients["ours"].run(descriptor, command.cdb, command.data_out)
        direct = send(_DISKS["sda"], command)
        found["failing"].append(
            [
                [reply.status, reply.sense.rstrip(b"\0").hex()],
                [direct.status, direct.sense.rstrip(b"\0").hex()],
            ]
        )
    os.close(descriptor)
    for client in clients.values():
        client.close()
    for helper in helpers:
        helper.terminate()
    found["ends"] = [helper.wait(600) for helper in helpers]
    return found


def through_an_agent(scene: Scene) -> dict[str, Any]:
    """The device's descriptor, sent to an agent that runs with what its unit leaves it.

    The device belongs to the user of QEMU, as libvirt has it.
    """
    unit = read_unit("holdover-agent.service")
    os.chown(DEVICE, _NOBODY, _NOBODY)
    os.chmod(DEVICE, 0o660)
    _AGENT.write_text(_AGENT_FILE)
    arguments = [str(_AGENT) if each.endswith(".toml") else each for each in unit.arguments]
    agent = start_program([*unit.limits, sys.executable, "-m", "holdover", *arguments])
    await_true(_GUEST.exists)
    descriptor = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK)
    found: dict[str, Any] = {"group": _GUEST.stat().st_gid}
    with HelperClient(_GUEST) as client:
        for name, command in {
            "register": out_command(Act.REGISTER, 0, K, aptpl=True),
            "reserve": out_command(Act.RESERVE, K, type=WE_RO),
            "wrong key": out_command(Act.RELEASE, L, type=WE_RO),
        }.items():
            reply = client.run(descriptor, command.cdb, command.data_out)
            found[name] = [reply.status, *registrants()]
        command = in_command(InServiceAction.REPORT_CAPABILITIES, 8)
        found["capabilities"] = client.run(descriptor, command.cdb).payload.hex()
        found["unmasked"] = send(_DISKS["sda"], command).data_in.hex()
    os.close(descriptor)
    agent.terminate()
    found["end"] = agent.wait(600)
    return found


def by_hand(scene: Scene) -> list[str]:
    """`holdover pr` on the device."""
    output = Path("/run/pr.said")
    command = [sys.executable, "-m", "holdover", "pr", "register", DEVICE, "--new-key", "0xa"]
    status = scene.shell.run(command, str(output))
    return [f"{status}: {output.read_text().strip()}", *registrants()]


def as_typed(scene: Scene) -> dict[str, str]:
    """The commands of the page "Multipath". There is no systemd here: multipathd is restarted without it."""
    restart, paths, doctor, status = lines_of("how-to/multipath.md")
    scene.multipathd.stop()
    scene.multipathd.start()
    Path("/etc/holdover").mkdir(exist_ok=True)
    Path("/etc/holdover/agent.toml").write_text(_AGENT_FILE)
    scene.out(Act.REGISTER, 0, K)
    said = {"restart": restart}
    for name, line in {"paths": paths, "doctor": doctor, "status": status}.items():
        output = Path("/run/page.said")
        scene.shell.run(["sh", "-c", f"PATH={Path(sys.executable).parent}:$PATH; {line}"], str(output))
        said[name] = output.read_text()
    return said


def known_as(scene: Scene) -> dict[str, Any]:
    """By which names the host finds the LUN, and how many nexuses they are."""

    async def find() -> dict[str, Any]:
        io = SgIo(1)
        found = await HostDisks(io).find(Designator.parse(LUN))
        descriptor = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK)
        own = await HostDisks(io).designator_of(OpenDevice.of(descriptor, DEVICE))
        os.close(descriptor)
        nexuses = {device: SgioPath(Path(device), io).nexuses for device in (DEVICE, _THIRD)}
        io.close()
        return {"found": [str(each) for each in found], "own": str(own), "nexuses": nexuses}

    return asyncio.run(find())


def without_multipathd(scene: Scene) -> dict[str, Any]:
    """What is said where multipathd keeps no keys, and where it does not run."""
    scene.multipathd.configure(keys=None)
    scene.multipathd.ask("reconfigure")
    await_true(lambda: "reservation_key" not in scene.multipathd.ask("show config local"))
    found = {"no keys": scene.out(Act.REGISTER, 0, K)}
    scene.multipathd.stop()
    found["register"] = scene.out(Act.REGISTER, 0, K)
    found["read"] = describe_response(send(DEVICE, in_command(InServiceAction.READ_KEYS)))
    return found


SCENES: dict[str, Callable[[Scene], Any]] = {
    "story": story,
    "writes": writes,
    "one path fails": one_path_fails,
    "path comes back": path_comes_back,
    "a path lacks it": a_path_lacks_it,
    "a wrong release": a_wrong_release,
    "beside mpathpersist": beside_mpathpersist,
    "helpers": through_the_helpers,
    "agent": through_an_agent,
    "by hand": by_hand,
    "as typed": as_typed,
    "known as": known_as,
    "without multipathd": without_multipathd,
}


LONG = frozenset({"beside mpathpersist", "agent", "by hand", "as typed"})
"""The scenes that `make test` leaves out: each starts several programs, which costs this kernel seconds."""


def main(whole: bool) -> dict[str, Any]:
    scene = Scene()
    for name, play in SCENES.items():
        if name in LONG and not whole:
            continue
        scene.clear()
        scene.seen[name] = play(scene)
    scene.shell.close()
    return scene.seen


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(main(sys.argv[2] == "whole")))
