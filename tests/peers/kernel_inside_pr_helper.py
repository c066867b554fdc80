"""Run inside a kernel of the rig: our helpers and qemu-pr-helper, asked the same things by one client.

Writes what it sees to the file that is its argument; what it should see is `test_kernel_pr_helper`'s to say.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen
from typing import Any

from holdover.reservations.driver import run_sync
from holdover.reservations.own_registration import find_own_registration
from holdover.reservations.questions import read_full_status, read_keys, read_reservation
from holdover.reservations.steps import Steps, T
from holdover.scsi.cdbs.cdb import PersistentReserveIn, PersistentReserveOut
from holdover.scsi.cdbs.opcodes import OutServiceAction, ReservationType
from holdover.scsi.command import Command, Response
from holdover.scsi.reservation.reservation_out import out_command
from holdover.scsi.status import Status
from tests.helper.client import HelperClient, Reply
from tests.rig.kernel_programs import start_program

SOCKETS = {name: Path(f"/run/{name}.sock") for name in ("ours", "agent", "qemu")}
_CONFIG = Path("/run/agent.toml")
_PIDFILE = Path("/run/ours.pid")
_DISKS = ["/dev/sda", "/dev/sdb", "/dev/sdc"]
_NOBODY = 65534
_GUEST = "db1"
_A, _B, _C = 0xA, 0xB, 0xC
_ACT = OutServiceAction
_READS = 300
_TIMEOUT = 5.0

Answer = list[Any]


class Bench:
    """The helpers (our own alone, an agent's, and QEMU's), a connection to each, and the disks."""

    def __init__(self) -> None:
        holdover = [sys.executable, "-m", "holdover"]
        options = ["-f", str(_PIDFILE), "-u", str(_NOBODY), "-g", str(_NOBODY), "-q"]
        _CONFIG.write_text(
            'name = "h"\ninitiator = "iqn.2026-11.org.example:h"\nstate-dir = "/run/h.state"\n'
            '[api]\nlisten = "unix:/run/api.sock"\n'
            f'[helper]\nsocket = "{SOCKETS["agent"]}"\n[[guest]]\nname = "{_GUEST}"\nmachine = "pc-q35-7.2"\n'
            f'devices = ["scsi-block,drive={_DISKS[0]},migrate-pr=on"]\n'
        )
        self.helpers: list[Popen[bytes]] = [
            start_program([*holdover, "pr-helper", "-k", str(SOCKETS["ours"]), *options]),
            start_program([*holdover, "agent", "--config", str(_CONFIG), "--ephemeral"]),
            start_program(["qemu-pr-helper", "-k", str(SOCKETS["qemu"])]),
        ]
        self.clients = {name: _connect(path) for name, path in SOCKETS.items()}
        self.disks = [os.open(each, os.O_RDWR | os.O_NONBLOCK) for each in _DISKS]

    def ask(self, helper: str, nexus: int, command: Command) -> Answer:
        """One command through one helper; a connection that it ends is an answer as well."""
        client = self.clients[helper]
        try:
            reply = client.run(self.disks[nexus], command.cdb, command.data_out)
        except OSError as error:
            client.close()
            self.clients[helper] = _connect(SOCKETS[helper])
            return ["no answer" if isinstance(error, TimeoutError) else "disconnected", "", ""]
        return _shown(reply)

    def all(self, nexus: int, command: Command) -> dict[str, Answer]:
        """One command that changes nothing, through all of them."""
        return {helper: self.ask(helper, nexus, command) for helper in self.clients}

    def close(self) -> list[int]:
        """End everything; the exit statuses of the helpers."""
        for client in self.clients.values():
            client.close()
        for helper in self.helpers:
            helper.terminate()
        return [helper.wait(600) for helper in self.helpers]


def _connect(path: Path) -> HelperClient:
    deadline = time.monotonic() + 20
    while True:
        try:
            return HelperClient(path, timeout=_TIMEOUT)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _shown(reply: Reply) -> Answer:
    return [reply.status, reply.payload.hex(), reply.sense.hex()]


def _read(action: int, length: int) -> Command:
    return Command(PersistentReserveIn(action, length).encode())


def _out(
    action: OutServiceAction, key: int, new: int = 0, kind: int | None = None, aptpl: bool = False
) -> Command:
    reservation = None if kind is None else ReservationType(kind)
    return out_command(action, key, new, type=reservation, aptpl=aptpl)


def failing() -> dict[str, Command]:
    """PERSISTENT RESERVE OUT commands that must fail, whatever is registered, and change nothing."""
    found = {**wrong_keys(), **wrong_fields(), **wrong_lengths()}
    found["more than 8 KiB"] = Command(PersistentReserveOut(_ACT.REGISTER, 8193).encode(), bytes(8193))
    return found


def wrong_keys() -> dict[str, Command]:
    """A reservation key that nobody has, in every service action that looks at it."""
    return {
        "wrong key": _out(_ACT.REGISTER, 0xBAD, 1),
        "wrong key and nothing to register": _out(_ACT.REGISTER, 0xBAD),
        **{f"{act.name} with a wrong key": _out(act, 0xBAD, kind=1) for act in (_ACT.RESERVE, _ACT.CLEAR)},
        **{
            f"{act.name} with a wrong key": _out(act, 0xBAD, _B, 1)
            for act in (_ACT.PREEMPT, _ACT.PREEMPT_AND_ABORT)
        },
        "PREEMPT with a wrong key of nobody": _out(_ACT.PREEMPT, 0xBAD, 0xBAD, 1),
        "REGISTER AND MOVE with a wrong key": Command(
            PersistentReserveOut(_ACT.REGISTER_AND_MOVE, 48).encode(), _move(0xBAD, 0xBAD)
        ),
    }


def wrong_fields() -> dict[str, Command]:
    """Types, scopes, service actions and flags that there are not, or that do not go together."""
    right = _out(_ACT.RESERVE, _A).data_out
    found = {
        f"RESERVE, type {kind}": Command(PersistentReserveOut(_ACT.RESERVE, 24, kind).encode(), right)
        for kind in (0, 2, 4, 9, 15)
    }
    for scope in (1, 2, 15):
        cdb = PersistentReserveOut(_ACT.RESERVE, 24, 1, scope).encode()
        found[f"RESERVE, scope {scope}"] = Command(cdb, right)
    for action in (8, 9, 16, 31):
        found[f"service action {action}"] = Command(PersistentReserveOut(action, 24).encode(), right)
    for flags in (0x02, 0x04, 0x08, 0xF0):
        data = bytearray(_out(_ACT.REGISTER, 0xBAD, 1).data_out)
        data[20] = flags
        found[f"REGISTER, flags {flags:02x}"] = Command(
            PersistentReserveOut(_ACT.REGISTER, 24).encode(), bytes(data)
        )
    return found


def wrong_lengths() -> dict[str, Command]:
    """Parameter lists of every wrong length, of every kind of service action."""
    found = {}
    for action in (_ACT.REGISTER, _ACT.RESERVE, _ACT.PREEMPT, _ACT.CLEAR):
        right = _out(action, 0xBAD, 1, kind=1)
        kind = right.cdb[2] & 0x0F
        for length in (0, 1, 8, 16, 23, 25, 28, 200, 8192):
            data = right.data_out.ljust(length, b"\0")[:length]
            cdb = PersistentReserveOut(action, length, kind).encode()
            found[f"{action.name}, {length} bytes"] = Command(cdb, data)
    for length in (0, 8, 23, 24, 40, 49, 8192):
        data = _move(0xBAD, 1).ljust(length, b"\0")[:length]
        cdb = PersistentReserveOut(_ACT.REGISTER_AND_MOVE, length).encode()
        found[f"REGISTER AND MOVE, {length} bytes"] = Command(cdb, data)
    return found


def _move(key: int, new: int) -> bytes:
    """The parameter list of REGISTER AND MOVE to a SAS address that is nobody's."""
    identifier = bytes([6, 0, 0, 0]) + bytes(20)
    keys = key.to_bytes(8, "big") + new.to_bytes(8, "big")
    return keys + bytes(4) + len(identifier).to_bytes(4, "big") + identifier


def reads(bench: Bench, state: str) -> list[dict[str, Any]]:
    """Every PERSISTENT RESERVE IN service action, with every kind of length, and what must fail."""
    found = []
    for action in (0, 1, 2, 3, 4, 31):
        for length in (0, 4, 8, 24, 255, 8192, 8193):
            name = f"{state}: IN {action}, {length} bytes"
            found.append({"name": name, **bench.all(0, _read(action, length))})
    for name, command in failing().items():
        found.append({"name": f"{state}: OUT, {name}", **bench.all(0, command)})
    return found


def story(bench: Bench, helper: str) -> list[Answer]:
    """Commands that change much, from three nexuses, and what each leads to. Leaves nothing behind."""
    act = OutServiceAction
    steps: list[tuple[int, Command]] = [
        (0, _out(act.REGISTER, 0, _A, aptpl=True)),
        (1, _out(act.REGISTER, 0, _B)),
        (2, _out(act.REGISTER_AND_IGNORE_EXISTING_KEY, 0, _C)),
        (0, _out(act.RESERVE, _A, kind=5)),
        (1, _out(act.RESERVE, _B, kind=5)),
        (1, _out(act.PREEMPT, _B, _A, 5)),
        (0, _out(act.REGISTER, 0, _A)),
        (0, _out(act.REGISTER, 0, _A)),
        (2, _out(act.RELEASE, _C, kind=5)),
        (1, _out(act.RELEASE, _B, kind=1)),
        (1, _out(act.RELEASE, _B, kind=5)),
        (2, _out(act.RESERVE, _C, kind=8)),
        (2, _out(act.RESERVE, _C, kind=8)),
        (0, _out(act.PREEMPT, _A, _B, 8)),
        (1, _out(act.REGISTER, _B, 0)),
        (0, _out(act.CLEAR, _A)),
        (1, _read(2, 8)),
        (2, _read(2, 8)),
        (2, _read(2, 8)),
    ]
    answers = []
    for nexus, command in steps:
        answers.append(bench.ask(helper, nexus, command))
        for action in (0, 1, 3):
            status, payload, sense = bench.ask(helper, 0, _read(action, 8192))
            # PRgeneration counts on from one telling to the next
            answers.append([status, payload[8:], sense])
    return answers


def identity(pid: int) -> dict[str, str]:
    """Whom a process is, and what it may."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    names = ("Uid", "Gid", "Groups", "CapEff", "CapPrm", "CapBnd", "NoNewPrivs")
    return {name: " ".join(fields[name].split()) for name in names}


def read_only(bench: Bench) -> dict[str, Answer]:
    """A disk that the client may only read: reading passes, reserving does not."""
    writable = bench.disks[0]
    bench.disks[0] = os.open(_DISKS[0], os.O_RDONLY | os.O_NONBLOCK)
    answers = {f"IN {helper}": answer for helper, answer in bench.all(0, _read(0, 8)).items()}
    clear = _out(OutServiceAction.CLEAR, _A)
    answers |= {f"OUT {helper}": answer for helper, answer in bench.all(0, clear).items()}
    os.close(bench.disks[0])
    bench.disks[0] = writable
    return answers


def questions(bench: Bench, helper: str) -> dict[str, Any]:
    """What the agent's own questions find, sent through a helper that refuses long answers."""

    def send(command: Command) -> Response:
        reply = bench.clients[helper].run(bench.disks[0], command.cdb, command.data_out)
        sense = reply.sense if reply.status == Status.CHECK_CONDITION else b""
        return Response(Status(reply.status), reply.payload, sense)

    def run(steps: Steps[T]) -> T:
        return run_sync(steps, send)

    held, status = run(read_reservation()), run(read_full_status())
    found = run(find_own_registration((_A,)))
    return {
        "keys": sorted(run(read_keys())),
        "held": None if held is None else held.key,
        "full status": None if status is None else sorted(each.key for each in status.descriptors),
        "own": [found.tracked.key, found.tracked.type, found.tracked.aptpl, found.certain],
    }


def latency(run: Callable[[], object]) -> list[float]:
    """Median and 99th percentile, in microseconds."""
    took = []
    for _ in range(_READS):
        start = time.perf_counter()
        run()
        took.append(time.perf_counter() - start)
    took.sort()
    return [round(took[_READS // 2] * 1e6), round(took[_READS * 99 // 100] * 1e6)]


def main() -> dict[str, Any]:
    bench = Bench()
    observed: dict[str, Any] = {"identity": identity(int(_PIDFILE.read_text()))}
    observed["reads"] = reads(bench, "nobody is registered")
    bench.ask("ours", 0, _out(OutServiceAction.REGISTER, 0, _A, aptpl=True))
    bench.ask("ours", 1, _out(OutServiceAction.REGISTER, 0, _B))
    bench.ask("ours", 0, _out(OutServiceAction.RESERVE, _A, kind=6))
    observed["reads"] += reads(bench, "reserved")
    observed["questions"] = {helper: questions(bench, helper) for helper in ("ours", "qemu")}
    observed["read only"] = read_only(bench)
    bench.ask("ours", 0, _out(OutServiceAction.CLEAR, _A))
    bench.ask("ours", 1, _read(0, 8))
    observed["story"] = {helper: story(bench, helper) for helper in ("ours", "qemu")}
    observed["latency"] = {
        helper: latency(functools.partial(bench.ask, helper, 0, _read(0, 8192)))
        for helper in ("ours", "qemu")
    }
    observed["ends"] = bench.close()
    return observed


if __name__ == "__main__":
    if "-name" not in sys.argv:
        # an agent knows a guest by the command line of its QEMU: whoever has this one is that
        again = [sys.executable, "-m", "tests.peers.kernel_inside_pr_helper", sys.argv[1], "-name", _GUEST]
        sys.exit(start_program(again).wait())
    Path(sys.argv[1]).write_text(json.dumps(main()))
