"""A client with many commands that wait at a gate, and another guest on the same device."""

from __future__ import annotations

import asyncio
import os

import pytest

from holdover.agent.attach.front_end import HOST_NEXUS, HelperFrontEnd, ThreadFrontEnd
from holdover.agent.attach.processes.process import Way
from holdover.guest.gate import Gate
from holdover.helper.connection import Peer
from holdover.helper.listener import listen
from holdover.helper.on_loop import OnLoop
from holdover.helper.server import HelperServer
from holdover.paths.sgio import OpenDevice
from holdover.scsi.cdbs.opcodes import InServiceAction
from holdover.scsi.command import Command, Response
from holdover.scsi.reservation.reservation_out import in_command
from tests.agent.device_rig import Rig
from tests.helper.client import HelperClient
from tests.helper.serving import plenty
from tests.security.local_user import needs_root, open_folder, program_of

READ_KEYS = in_command(InServiceAction.READ_KEYS, 64)

FLOOD = """
clients = [connect(sys.argv[1]) for _ in range(int(sys.argv[2]))]
null = os.open("/dev/null", os.O_RDWR)
for each in clients:
    send(each, null, READ_KEYS)
print("sent", flush=True)
sys.stdin.readline()
print(sum(reply(each)[0] == 0 for each in clients))
"""


class TwoGuests(HelperFrontEnd):
    """One guest, whose gate is shut, is a process; the other one runs."""

    def __init__(self) -> None:
        self.leaving = Rig(gate=Gate.LEAVING)
        self.running = Rig()

    def way(self, peer: Peer, disk: OpenDevice) -> Way | None:
        return None

    async def handle(self, peer: Peer, disk: OpenDevice, command: Command) -> Response:
        rig = self.running if peer.pid == os.getpid() else self.leaving
        return await rig.device.execute(HOST_NEXUS, command)


@needs_root
@pytest.mark.parametrize("commands", [40, 200])
def test_commands_held_at_a_gate_do_not_delay_another_guest(commands: int) -> None:
    async def test() -> None:
        front_end = TwoGuests()
        on_loop = OnLoop(front_end.handle)
        with open_folder() as folder:
            path = folder / "helper.sock"
            server = HelperServer(listen(path, 0o666), ThreadFrontEnd(front_end, on_loop).handle, plenty())
            server.start()
            try:
                with program_of(FLOOD, str(path), str(commands)) as attacker, HelperClient(path) as victim:
                    assert attacker.stdout is not None
                    assert await asyncio.to_thread(attacker.stdout.readline) == "sent\n"
                    while front_end.leaving.device.held < commands:  # noqa: ASYNC110 - no event tells of it
                        await asyncio.sleep(0.01)
                    null = os.open("/dev/null", os.O_RDWR)
                    # while all of them wait; at 847e57f it was answered only when the gate had opened
                    reply = await asyncio.to_thread(victim.run, null, READ_KEYS.cdb)
                    assert reply.status == 0
                    assert front_end.leaving.device.held == commands
                    front_end.leaving.device.move_gate(Gate.RUNNING)
                    said, _ = await asyncio.to_thread(attacker.communicate, "\n")
                    assert said == f"{commands}\n", "what was held is carried out once the gate opens"
                    os.close(null)
            finally:
                await asyncio.to_thread(server.close)

    asyncio.run(asyncio.wait_for(test(), 120))
