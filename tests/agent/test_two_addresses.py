"""A guest whose disks name one SAN by several addresses has one session there, and can be handed over."""

from __future__ import annotations

import json

from tests.rig.agents import real_agents
from tests.rig.processes import Rig, Target

KEY = "0xdb1"


def sessions(target: Target, initiator: str) -> list[str]:
    """The begins and ends of an initiator's sessions, as the target has told them."""
    told = [json.loads(line) for line in target.process.output().splitlines() if line.startswith("{")]
    return [
        each["event"]
        for each in told
        if each["event"].startswith("session-") and each["initiator"] == initiator
    ]


def test_disks_that_name_a_san_by_name_and_by_address(rig: Rig) -> None:
    target = rig.target(luns=2, options=["--json-events"])
    drives = [target.url(0), target.url(1).replace("127.0.0.1", "localhost")]
    agents = real_agents(rig, "db1", drives)
    for each in agents.values():
        each.start()
    here, there = agents.values()

    def works(*arguments: str) -> str:
        done = rig.holdover(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    for lun in (0, 1):
        works("pr", "register", here.url(lun), "--new-key", KEY)
        works("pr", "reserve", here.url(lun), "--key", KEY, "--type", "wero")
    begun = sessions(target, "iqn.2026-11.org.holdover:host-a")
    for _ in range(3):
        for lun in (0, 1):
            works("pr", "reservation", here.url(lun))
    assert sessions(target, "iqn.2026-11.org.holdover:host-a") == begun
    assert begun.count("session-begin") - begun.count("session-end") == 1
    works("migrate", "db1", "--from", here.api, "--to", there.name, "--reservations-only")
    for lun in (0, 1):
        holders = works("pr", "status", target.url(lun))
        assert ":host-b," in holders
        assert ":host-a," not in holders
