"""One user with many processes, each of which says that it is another guest."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from holdover.agent.attach.attached_guest import Attached, Refused
from holdover.agent.attach.claims import ProcessClaims
from holdover.agent.guests.guest import HostedGuest
from holdover.agent.host import Host
from holdover.config.agent_file import AgentConfig
from holdover.config.rules import Rules
from holdover.guest.identity_policy import ProcessClaim, ProcessIdentity, Trust
from tests.agent.attach.attach_site import PC
from tests.security.local_user import NOBODY, needs_root, open_folder, program_of

FILE = """
name = "host"
initiator = "iqn.2026-11.org.example:host"
[api]
listen = "unix:{folder}/api.sock"
[helper]
socket = "{folder}/all.sock"
mode = "0666"
"""

FORK = """
children = []
for number in range(int(sys.argv[2])):
    ready, done = os.pipe()
    child = os.fork()
    if child == 0:
        client = connect(sys.argv[1])
        client.set_inheritable(True)
        os.set_inheritable(ready, True)
        os.dup2(ready, 0)
        os.close(done)
        os.execv("/bin/sh", ["qemu", "-c", "read x", "-name", f"name-{number}"])
    os.close(ready)
    children.append((child, done))
print("there", flush=True)
sys.stdin.readline()
for child, done in children:
    os.close(done)
    os.kill(child, 9)
    os.waitpid(child, 0)
"""


async def until(true: Callable[[], bool]) -> None:
    while not true():  # noqa: ASYNC110 - no event tells of it
        await asyncio.sleep(0.02)


@needs_root
@pytest.mark.provokes("process-refused")
def test_children_with_names_of_their_own_do_not_fill_the_agent() -> None:
    count = 90

    async def test(folder: Path) -> None:
        host = Host(msgspec.toml.decode(FILE.format(folder=folder), type=AgentConfig))
        await host.start()
        try:
            with capture_logs() as log, program_of(FORK, str(folder / "all.sock"), str(count)) as attacker:
                assert attacker.stdout is not None
                assert await asyncio.to_thread(attacker.stdout.readline) == "there\n"
                refused = "A client of the helper is no guest."

                def told() -> int:
                    return [each["event"] for each in log].count(refused) + len(host.guests)

                # at 847e57f each was a guest
                await until(lambda: told() >= count)
                assert len(host.guests) == 64
                await asyncio.to_thread(attacker.communicate, "\n")
                await until(lambda: not host.guests)
        finally:
            await host.close()

    with open_folder() as folder:
        asyncio.run(asyncio.wait_for(test(folder), 120))


class _Process:
    """What `ProcessClaims` looks at of one."""

    def __init__(self, identity: ProcessIdentity, trust: Trust, shown: bool) -> None:
        self.identity = identity
        self.claim = ProcessClaim(trust, shown)


def guests(count: int, identity: ProcessIdentity, trust: Trust, *, shown: bool) -> dict[str, Attached]:
    found: dict[str, Attached] = {}
    for number in range(count):
        guest = HostedGuest.__new__(HostedGuest)
        guest.devices = []
        attached = Attached(guest, PC, None)  # type: ignore[arg-type]
        attached.process = _Process(identity, trust, shown)  # type: ignore[assignment]
        found[f"guest-{number}"] = attached
    return found


CONFIG = msgspec.toml.decode(FILE.format(folder="/x"), type=AgentConfig)
CHILD = ProcessIdentity(NOBODY, "/system.slice/vm@db2.service")
OTHER = ProcessIdentity(107, "/system.slice/vm@db3.service")


@pytest.mark.parametrize(
    ("count", "shown", "problem"),
    [
        (64, False, "too many processes with a guest's name have not used a disk yet"),
        (256, True, "there are 256 guests of this user and cgroup already"),
    ],
)
def test_guests_of_one_user_and_unit_are_bounded(count: int, shown: bool, problem: str) -> None:
    known = guests(count - 1, CHILD, Trust.CLAIMED, shown=shown)
    claims = ProcessClaims(CONFIG, Rules([]), known)
    claims.check_room(1, CHILD, Trust.CLAIMED, shown=shown)
    known.update(guests(count, CHILD, Trust.CLAIMED, shown=shown))
    with pytest.raises(Refused, match=problem):
        claims.check_room(1, CHILD, Trust.CLAIMED, shown=shown)
    # others have room, and so have those who are known better
    claims.check_room(1, OTHER, Trust.CLAIMED, shown=shown)
    claims.check_room(1, CHILD, Trust.CERTAIN, shown=False)


def test_guests_are_bounded_in_all() -> None:
    claims = ProcessClaims(CONFIG, Rules([]), guests(4096, OTHER, Trust.CERTAIN, shown=True))
    with pytest.raises(Refused, match="there are 4096 guests already that no file names"):
        claims.check_room(1, CHILD, Trust.CERTAIN, shown=True)


def test_conflicts_that_are_shown_are_bounded() -> None:
    claims = ProcessClaims(CONFIG, Rules([]), {})
    for number in range(100):
        claims.conflict(f"guest-{number}", "x")
    assert len(claims.warnings) == 64
    assert "guest guest-99: x; refused at" in claims.warnings[-1]
    claims.forget("guest-99")
    assert len(claims.warnings) == 63
