"""Clients that break the protocol in every way, beside one that keeps to it, at the stand-alone helper.

What is no SCSI device goes all the way to the check that keeps SG_IO from it; the device of the good client
is played by /dev/zero. `tests/agent/attach/test_front_end_fuzz.py` does the same at an agent's front end.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from holdover.helper.connection import Peer
from holdover.helper.passthrough import Passthrough
from holdover.paths.sgio import OpenDevice
from holdover.scsi.cdbs.cdb import PersistentReserveIn
from holdover.scsi.command import Command, Response
from holdover.scsi.status import Status
from tests.helper.client import HelperClient, Reply
from tests.helper.fuzz import Good, besiege, quiet, settle
from tests.helper.serving import open_descriptors, serving
from tests.rig.amounts import amount

CASES = amount(10_000, 100_000)
SHARDS = 4

ZERO = os.stat("/dev/zero").st_rdev


def handle(peer: Peer, device: OpenDevice, command: Command) -> Response:
    if device.found.st_rdev == ZERO:
        return Response(Status.GOOD, command.cdb[7:9] + b"well")
    return Passthrough().handle(peer, device, command)


@pytest.mark.parametrize("seed", range(SHARDS))
def test_clients_that_break_the_protocol_harm_nobody(tmp_path: Path, seed: int) -> None:
    zero = os.open("/dev/zero", os.O_RDWR)

    def work(one: HelperClient, number: int) -> None:
        length = 6 + number % 8000
        expected = Reply(0, length.to_bytes(2, "big") + b"well", bytes(96))
        assert one.run(zero, PersistentReserveIn(0, length).encode()) == expected

    path = tmp_path / "helper.sock"
    before = open_descriptors()
    with quiet(), serving(path, handle, silence=1.0) as server:
        good = Good(path, work)
        nasty = besiege(path, tmp_path, seed, CASES // SHARDS, good)
        assert good.served > CASES // SHARDS // 100
        assert set(nasty.answers) == {Status.CHECK_CONDITION}
        assert nasty.answers[Status.CHECK_CONDITION] > CASES // SHARDS // 10
        settle(server, nasty)
    assert open_descriptors() == before
    os.close(zero)
