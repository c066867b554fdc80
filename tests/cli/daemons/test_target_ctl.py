"""`holdover target-ctl` with a target that runs."""

from __future__ import annotations

import asyncio
import stat
from typing import Any

import pytest

from holdover.scsi.status import Status
from tests.cli.operating import (
    IQN,
    ISID,
    REGISTER,
    RESERVE,
    TEST_UNIT_READY,
    logged_in,
    ready,
    run,
    start,
)
from tests.rig.processes import Rig


def test_target_ctl(rig: Rig) -> None:
    target = start(rig, "--control", "control", "--fault", "latency=1ms,opcode=0xc0")
    path = rig.folder / "control"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def ask(*arguments: str) -> Any:
        return rig.holdover_json("target-ctl", "control", *arguments)

    one = {"id": 1, "fault": "latency=1ms,opcode=0xc0", "fitted": 0, "struck": 0}
    two = {"id": 2, "fault": "status=busy,opcode=TEST_UNIT_READY,count=1", "fitted": 0, "struck": 0}
    assert ask("list") == [one]
    assert ask("add", "count=1,opcode=test-unit-ready,status=busy") == [two]

    async def test() -> None:
        async with logged_in(target) as a:
            assert (await a.execute(0, TEST_UNIT_READY)).status is Status.BUSY
            await ready(a)
            assert (await a.execute(0, REGISTER)).good
            assert (await a.execute(0, RESERVE)).good
            state = await asyncio.to_thread(ask, "status")
            assert state["faults"] == [one, {**two, "fitted": 1, "struck": 1}]
            (session,) = state["sessions"]
            assert (session["initiator"], session["tsih"]) == ("iqn.2026-11.org.example:a", 1)
            (lun,) = state["luns"]
            assert (lun["file"], lun["size"], lun["generation"]) == (str(target.files[0]), 1 << 20, 1)
            assert lun["designator"].startswith("naa.")
            assert [each["key"] for each in lun["registrants"]] == ["0xa"]
            assert lun["reservation"]["type"] == "we"
            shown = await asyncio.to_thread(rig.holdover, "target-ctl", "control", "status")
            assert f"iqn.2026-11.org.example:a,i,0x{ISID.hex()} (holder)" in shown.stdout

    run(test)
    assert ask("remove", "1") == [{**two, "fitted": 1, "struck": 1}]
    again = rig.holdover("target-ctl", "control", "remove", "1")
    assert (again.returncode, again.stderr) == (
        1,
        "holdover: target-ctl remove: there is no fault 1; the faults that there are: 2\n",
    )
    assert ask("clear") == []
    assert rig.holdover("target-ctl", "control", "list").stdout == "no fault is in force\n"
    target.process.end()
    assert target.process.popen.returncode == 0
    assert not path.exists()
    gone = rig.holdover("target-ctl", "control", "list")
    assert (gone.returncode, gone.stderr) == (1, "holdover: control: No such file or directory\n")


def test_a_control_socket_in_use_is_named(rig: Rig) -> None:
    start(rig, "--control", "control")
    second = ("--iqn", IQN, "--lun", "file=second,size=1M", "--listen", "127.0.0.1:0")
    again = rig.holdover("target", *second, "--control", "control")
    assert (again.returncode, again.stderr) == (1, "holdover: control: somebody listens there already\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["add"], "target-ctl add: FAULT is missing"),
        (["add", "colour=red"], "unknown word 'colour'"),
        (["remove", "one"], "'one' is not the number of a fault"),
        (["list", "1"], "takes no value"),
        (["paint"], "'paint' is not one of 'list', 'add'"),
    ],
    ids=str,
)
def test_a_wrong_request_is_named(rig: Rig, arguments: list[str], message: str) -> None:
    done = rig.holdover("target-ctl", "x", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("holdover: ")
    assert message in done.stderr
