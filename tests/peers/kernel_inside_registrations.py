"""Run inside a kernel of the rig: handovers of a guest on multipath devices of which paths are down.

Two agents, each a process with its own journal; a multipathd; the kernel's LUN. host-a has it by mpatha over
sda and sdb. host-b has it by sde, or by mpathb over sdc and sdd. sdf is a third node. Writes what it sees to
the file that is its first argument; the others are the types of reservation that it tries. What it should
see is `test_kernel_registrations`'s to say.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from holdover.demo.hosts import certified_hosts
from holdover.scsi.cdbs.opcodes import InServiceAction, OutServiceAction, ReservationType
from holdover.scsi.reservation.reservation_out import in_command, out_command
from holdover.scsi.status import Status
from tests.helper.client import HelperClient
from tests.peers.kernel_inside_multipath import past_attentions, registrants, write
from tests.rig.forked import ForkedHoldover
from tests.rig.kernel_multipath import APART, DEVICE, Multipathd, await_true
from tests.rig.kernel_programs import Shell, run_holdover, start_holdover

KEY, OTHER_KEY, THIRD_KEY = 0xABC, 0xDEF, 0x77
ALONE, THIRD = "/dev/sde", "/dev/sdf"
_ALL = tuple(f"/dev/sd{letter}" for letter in "abcdef")
_NAMES = ("host-a", "host-b")
_PATIENCE = 600.0
_AGENT_FILE = """
name = "{name}"
initiator = "iqn.2026-11.org.example:{name}"
state-dir = "{folder}/{name}.state"
{api}
[journal]
file = "{folder}/{name}.journal"
[limits]
connect = 20
step = 60
drain = 20
peer = 30
give_up = 5
[[guest]]
name = "db1"
machine = "pc-q35-7.2"
helper = "{folder}/{name}.sock"
incoming = {incoming}
devices = ["scsi-block,id=disk0,drive={drive},migrate-pr=on"]
"""

Act = OutServiceAction


class Hosts:
    """Both agents, with the guest on the first."""

    def __init__(self, folder: Path, drives: dict[str, str]) -> None:
        self._folder = folder
        self._drives = drives
        self._certified = certified_hosts(folder, _NAMES)
        self._agents: dict[str, ForkedHoldover] = {}
        for name in _NAMES:
            self.start(name)

    def start(self, name: str) -> None:
        text = _AGENT_FILE.format(
            name=name,
            api=self._certified[name].toml(self._certified),
            folder=self._folder,
            incoming="true" if name == "host-b" else "false",
            drive=self._drives[name],
        )
        file = self._folder / f"{name}.toml"
        file.write_text(text)
        self._agents[name] = start_holdover(["agent", "--config", str(file)])
        socket = self._folder / f"{name}.sock"
        await_true(socket.exists, _PATIENCE)

    def kill(self, name: str) -> None:
        agent = self._agents.pop(name)
        agent.kill()
        agent.wait()

    def end(self) -> None:
        for agent in self._agents.values():
            agent.terminate()
        for agent in self._agents.values():
            agent.wait(600)

    def guest(
        self,
        action: OutServiceAction,
        key: int = 0,
        new: int = 0,
        kind: ReservationType | None = None,
        *,
        host: str = "host-a",
    ) -> str:
        """The guest's PERSISTENT RESERVE OUT, and how it ended, after the unit attentions."""
        command = out_command(action, key, new, type=kind)
        descriptor = os.open(self._drives[host], os.O_RDWR | os.O_NONBLOCK)
        try:
            with HelperClient(self._folder / f"{host}.sock", timeout=_PATIENCE) as client:
                reply = client.run(descriptor, command.cdb, command.data_out)
                while reply.status == Status.CHECK_CONDITION and reply.sense[2] & 0xF == 6:
                    reply = client.run(descriptor, command.cdb, command.data_out)
        finally:
            os.close(descriptor)
        return Status(reply.status).name

    def handover(self, step: str, host: str, *options: str) -> list[Any]:
        """One command of an operator: its exit status, what it has written, and who is registered then."""
        at = self._certified[host].api
        status, written = run_holdover(["handover", step, "db1", "--at", at, *options])
        return [status, " ".join(written.split()), seen()]


class Scene:
    """The LUN, its paths, and multipathd."""

    def __init__(self, kinds: Set[ReservationType]) -> None:
        self.kinds = kinds
        self.shell = Shell()  # before there are threads
        self.multipathd = Multipathd(self.shell, left_out=("sde", "sdf"), apart=("sdc", "sdd"))

    @contextmanager
    def hosts(self, drive: str) -> Iterator[Hosts]:
        """New agents, nobody registered, all paths there; host-b has the LUN by ``drive``."""
        with tempfile.TemporaryDirectory(dir="/run") as folder:
            self.begin()
            hosts = Hosts(Path(folder), {"host-a": DEVICE, "host-b": drive})
            try:
                yield hosts
            finally:
                hosts.end()

    def begin(self) -> None:
        """All paths are there, nobody is registered or owed a unit attention, multipathd knows no key."""
        for disk in "abcd":
            self.path_comes(f"sd{disk}")
        past_attentions(THIRD, out_command(Act.REGISTER_AND_IGNORE_EXISTING_KEY, 0, THIRD_KEY))
        past_attentions(THIRD, out_command(Act.CLEAR, THIRD_KEY))
        for name in ("mpatha", "mpathb"):
            self.multipathd.ask(f"unsetprstatus map {name}")
            self.multipathd.ask(f"unsetprkey map {name}")
        for disk in _ALL:
            past_attentions(disk, in_command(InServiceAction.READ_KEYS))

    def third(self, key: int) -> None:
        """The third node registers."""
        assert past_attentions(THIRD, out_command(Act.REGISTER, 0, key)).good

    def path_goes(self, disk: str) -> None:
        Path(f"/sys/block/{disk}/device/state").write_text("offline\n")
        await_true(lambda: not self._is_ready(disk), _PATIENCE)

    def path_comes(self, disk: str) -> None:
        Path(f"/sys/block/{disk}/device/state").write_text("running\n")
        await_true(lambda: self._is_ready(disk), _PATIENCE)

    def _is_ready(self, disk: str) -> bool:
        return f"{disk}|ready" in self.multipathd.ask("list paths raw format %d|%T")


def seen() -> str:
    return ", ".join(registrants(THIRD))


def register_and_reserve(hosts: Hosts, kind: ReservationType) -> str:
    """The guest's key and reservation."""
    answers = [hosts.guest(Act.REGISTER, 0, KEY), hosts.guest(Act.RESERVE, KEY, kind=kind)]
    return f"{' '.join(answers)}: {seen()}"


def row_a(scene: Scene, hosts: Hosts) -> dict[str, Any]:
    """A path of the source is down; commit and roll back."""
    found = {}
    for kind in {RO, WE} & scene.kinds:
        scene.begin()
        scene.path_goes("sdb")
        found[kind.short_name] = _there_and_back(scene, hosts, kind)
    scene.begin()
    register_and_reserve(hosts, RO)
    scene.path_goes("sdb")
    found["registered before"] = _there_and_back(scene, hosts, RO)
    return found


def _there_and_back(scene: Scene, hosts: Hosts, kind: ReservationType) -> dict[str, Any]:
    found: dict[str, Any] = {"guest": register_and_reserve(hosts, kind)}
    for step in ("prepare", "commit", "rollback"):
        options = ("--to", "host-b") if step == "prepare" else ()
        found[step] = hosts.handover(step, "host-a", *options)
    found["third writes"] = write(THIRD)
    scene.path_comes("sdb")
    await_true(lambda: f"sdb {KEY:x}" in registrants(THIRD), _PATIENCE)
    found["release"] = f"{hosts.guest(Act.RELEASE, KEY, kind=kind)}: {seen()}"
    found["unregister"] = f"{hosts.guest(Act.REGISTER, KEY, 0)}: {seen()}"
    return found


def row_b(scene: Scene, hosts: Hosts) -> dict[str, Any]:
    """The destination dies after it was prepared."""
    scene.begin()
    scene.path_goes("sdb")
    scene.third(THIRD_KEY)
    found: dict[str, Any] = {"guest": register_and_reserve(hosts, RO)}
    found["prepare"] = hosts.handover("prepare", "host-a", "--to", "host-b")
    hosts.kill("host-b")
    found["rollback"] = hosts.handover("rollback", "host-a", "--alone")
    found["destination writes"] = write(ALONE)
    return found


def row_c(scene: Scene, hosts: Hosts) -> dict[str, Any]:
    """The source dies after it was prepared, and a third node has the guest's key."""
    scene.path_goes("sdb")
    scene.third(KEY)
    found: dict[str, Any] = {"guest": register_and_reserve(hosts, RO)}
    found["prepare"] = hosts.handover("prepare", "host-a", "--to", "host-b")
    hosts.kill("host-a")
    found["take"] = hosts.handover("take", "host-b")
    found["third writes"] = write(THIRD)
    return found


def row_e(scene: Scene, hosts: Hosts) -> dict[str, Any]:
    """Both hosts have two paths of which one is down."""
    scene.path_goes("sdb")
    scene.path_goes("sdd")
    found: dict[str, Any] = {"guest": register_and_reserve(hosts, RO)}
    found["prepare"] = hosts.handover("prepare", "host-a", "--to", "host-b")
    found["rollback"] = hosts.handover("rollback", "host-a")
    found["prepare again"] = hosts.handover("prepare", "host-a", "--to", "host-b")
    found["commit"] = hosts.handover("commit", "host-a")
    found["rollback again"] = hosts.handover("rollback", "host-a")
    return found


def row_g(scene: Scene, hosts: Hosts) -> dict[str, Any]:
    """The path that holds it is away, and the guest sends a command by the other one."""
    found: dict[str, Any] = {}

    def run(name: str, *command: Any, kind: ReservationType = RO, third: int = THIRD_KEY) -> None:
        scene.begin()
        register_and_reserve(hosts, kind)
        scene.third(third)
        scene.path_goes("sda")
        found[name] = f"{hosts.guest(*command)}: {seen()}"

    for kind in scene.kinds:
        run(f"unregister {kind.short_name}", Act.REGISTER, KEY, 0, kind=kind)
        again = [hosts.guest(Act.REGISTER, 0, KEY), hosts.guest(Act.RESERVE, KEY, kind=kind)]
        found[f"again {kind.short_name}"] = again
    run("third has the key", Act.REGISTER, KEY, 0, third=KEY)
    scene.path_comes("sda")
    found["path is back"] = f"{hosts.guest(Act.REGISTER, KEY, 0)}: {seen()}"
    run("change the key", Act.REGISTER, KEY, OTHER_KEY)
    run("register and ignore", Act.REGISTER_AND_IGNORE_EXISTING_KEY, 0, OTHER_KEY)
    run("unregister and ignore", Act.REGISTER_AND_IGNORE_EXISTING_KEY, 0, 0)
    run("reserve", Act.RESERVE, KEY, 0, RO)
    run("release", Act.RELEASE, KEY, 0, RO)
    run("preempt the own key", Act.PREEMPT, KEY, KEY, RO)
    run("preempt the third", Act.PREEMPT, KEY, THIRD_KEY, RO)
    run("clear", Act.CLEAR, KEY)
    return found


RO, WE = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY, ReservationType.WRITE_EXCLUSIVE
Row = Callable[[Scene, Hosts], dict[str, Any]]
ROWS: tuple[tuple[str, dict[str, Row]], ...] = (
    (ALONE, {"A": row_a, "G": row_g, "B": row_b}),
    (ALONE, {"C": row_c}),
    (APART, {"E": row_e}),
)
"""host-b's disk, and the rows that share two agents. An agent costs this kernel seconds; B and C kill one."""


def main(kinds: list[str]) -> dict[str, Any]:
    scene = Scene({kind for kind in ReservationType if kind.short_name in kinds})
    observed: dict[str, Any] = {}
    for drive, rows in ROWS:
        with scene.hosts(drive) as hosts:
            observed |= {name: row(scene, hosts) for name, row in rows.items()}
    scene.shell.close()
    return observed


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(main(sys.argv[2:])))
