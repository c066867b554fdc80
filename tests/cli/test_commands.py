"""The commands against each other, as people type them: target, agent, status, migrate, pr."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.rig.processes import Agent, Rig, Target, free_port


def document(text: str) -> dict[str, object]:
    found = json.loads(text)
    assert isinstance(found, dict)
    return found


def two_agents(rig: Rig, target: Target) -> tuple[Agent, Agent]:
    drives = [target.url()]
    return (
        rig.agent("host-a", guest="db1", drives=drives),
        rig.agent("host-b", guest="db1", drives=drives, incoming=True),
    )


def ok(rig: Rig, *arguments: str) -> str:
    done = rig.holdover(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_pr_asks_and_tells(rig: Rig) -> None:
    url = rig.target().url()
    assert "no key is registered" in ok(rig, "pr", "keys", url)
    assert "nobody is registered" in ok(rig, "pr", "status", url)
    assert ok(rig, "pr", "register", url, "--new-key", "0x1234", "--aptpl") == "REGISTER: GOOD\n"
    ok(rig, "pr", "reserve", url, "--key", "4660", "--type", "wero")
    assert rig.holdover_json("pr", "keys", url) == {"generation": 1, "keys": ["0x1234"]}
    held = {"key": "0x1234", "type": 5, "type_name": "wero", "scope": 0}
    assert rig.holdover_json("pr", "reservation", url) == {"generation": 1, "reservation": held}
    capabilities = rig.holdover_json("pr", "capabilities", url)
    assert (capabilities["sip_c"], capabilities["atp_c"], capabilities["ptpl_a"]) == (True, True, True)
    status = rig.holdover_json("pr", "status", url)
    (registrant,) = status["registrants"]
    assert registrant["initiator"].startswith("iqn.2026-11.org.holdover:pr,i,0x")
    assert (registrant["key"], registrant["holder"], registrant["type_name"]) == ("0x1234", True, "wero")

    other = ("--initiator", "iqn.2026-11.org.example:other")
    conflict = rig.holdover("pr", "reserve", url, "--key", "9", "--type", "we", *other)
    assert (conflict.returncode, conflict.stderr) == (
        1,
        "holdover: RESERVE: RESERVATION CONFLICT\nholdover: more about this: holdover explain lun-refuses\n",
    )
    refused = rig.holdover("pr", "release", url, "--key", "0x1234", "--type", "ea")
    assert refused.returncode == 1
    assert "INVALID RELEASE OF PERSISTENT RESERVATION (5h 26h/04h)" in refused.stderr
    as_json = rig.holdover("pr", "release", url, "--key", "0x1234", "--type", "ea", "--json")
    assert as_json.returncode == 1
    assert document(as_json.stdout)["good"] is False

    ok(rig, "pr", "register-ignore", url, "--new-key", "7", *other)
    ok(rig, "pr", "preempt", url, "--key", "7", "--new-key", "0x1234", "--type", "earo", *other)
    assert "earo (6, exclusive access registrants only)" in ok(rig, "pr", "reservation", url)
    ok(rig, "pr", "register", url, "--new-key", "0x1234")
    ok(rig, "pr", "preempt-abort", url, "--key", "0x1234", "--new-key", "7", "--type", "we")
    ok(rig, "pr", "release", url, "--key", "0x1234", "--type", "we")
    assert "no reservation is held" in ok(rig, "pr", "reservation", url)
    ok(rig, "pr", "clear", url, "--key", "0x1234")
    assert "no key is registered" in ok(rig, "pr", "keys", url)


def test_pr_on_a_target_that_is_not_there(rig: Rig) -> None:
    done = rig.holdover("pr", "keys", f"iscsi://127.0.0.1:{free_port()}/iqn.2026-11.org.example:t/0")
    assert done.returncode == 1
    assert "cannot connect: Connection refused" in done.stderr


def test_a_lun_that_is_not_there_is_answered_with_those_that_are(rig: Rig) -> None:
    target = rig.target(luns=2)
    missing = rig.holdover("pr", "status", target.url(7))
    assert missing.returncode == 1
    assert "LOGICAL UNIT NOT SUPPORTED (5h 25h/00h); the LUNs of the target are 0, 1\n" in missing.stderr


def test_luns_count_from_0_in_the_order_given(rig: Rig) -> None:
    target = rig.target(luns=3)
    for lun in range(3):
        ok(rig, "pr", "register", target.url(lun), "--new-key", str(lun + 1))
    for lun in range(3):
        answer = rig.holdover_json("pr", "keys", target.url(lun))
        assert answer["keys"] == [hex(lun + 1)]
    for lun, file in enumerate(target.files):
        assert f"LUN {lun}: {file}" in target.process.output()


def test_a_file_that_another_target_serves_is_refused(rig: Rig) -> None:
    target = rig.target()
    again = rig.holdover(
        "target", "--listen", "127.0.0.1:0", "--iqn", target.iqn, "--lun", f"file={target.files[0]}"
    )
    assert again.returncode == 1
    assert str(target.files[0]) in again.stderr
    assert "Traceback" not in again.stderr


def test_an_address_in_use_is_named(rig: Rig) -> None:
    target = rig.target()
    second = ("--lun", "file=second,size=1M", "--iqn", target.iqn)
    again = rig.holdover("target", "--listen", f"127.0.0.1:{target.port}", *second)
    assert again.returncode == 1
    assert str(target.port) in again.stderr
    assert "Traceback" not in again.stderr
    device = f"scsi-block,drive={target.url()}"
    agent = rig.holdover(
        *("agent", "--name", "a", "--api", f"unix:{rig.folder}/a.sock", "--guest", "g", "--machine", "pc"),
        *("--initiator", "iqn.2026-11.org.example:a", "--device", device),
        *("--export", f"127.0.0.1:{target.port}", "--state-dir", str(rig.folder / "state")),
    )
    assert agent.returncode == 1
    assert "Traceback" not in agent.stderr


def test_migrate_status_and_a_rehearsed_failure(rig: Rig) -> None:
    target = rig.target()
    source, destination = two_agents(rig, target)
    ok(rig, "pr", "register", source.url(), "--new-key", "0xabc", "--aptpl")
    ok(rig, "pr", "reserve", source.url(), "--key", "0xabc", "--type", "eaar")
    table = ok(rig, "status", "--api", source.api, "--api", destination.api).splitlines()
    assert "running" in table[1]
    assert "0xabc" in table[1]
    assert "eaar (8)" in table[1]
    assert table[1].split()[-2] == "yes"
    assert "incoming" in table[2]

    failed = rig.holdover(
        "migrate", "db1", "--from", source.api, "--to", destination.api, "--fail-after", "commit"
    )
    assert failed.returncode == 1
    assert failed.stderr.count("a failure after commit was asked for") == 1
    assert "Guest db1 stays on host-a with its reservations." in failed.stderr
    as_json = rig.holdover(
        "migrate", "db1", "--from", source.api, "--to", destination.api, "--fail-after", "prepare", "--json"
    )
    assert as_json.returncode == 1
    assert document(as_json.stdout)["in_doubt"] is False

    moved = rig.holdover(
        "migrate", "db1", "--reservations-only", "--from", source.api, "--to", destination.api
    )
    assert moved.returncode == 0, moved.stderr
    assert "0xabc" in moved.stdout
    assert "Guest db1 moved from host-a to host-b" in moved.stdout
    for action in ("prepare on host-a", "commit on host-a", "finish on host-a"):
        assert action in moved.stderr
    hosts = rig.holdover_json("status", "--api", source.api, "--api", destination.api)
    assert [host["guests"][0]["devices"][0]["gate"] for host in hosts] == ["departed", "running"]
    assert [host["guests"][0]["devices"][0]["key"] for host in hosts] == [None, "0xabc"]
    back = document(
        ok(
            rig,
            "migrate",
            "db1",
            "--reservations-only",
            "--from",
            destination.api,
            "--to",
            source.api,
            "--json",
        )
    )
    assert isinstance(back["outcome"], dict)
    assert back["outcome"]["destination"] == "host-a"
    assert [device["key"] for device in back["outcome"]["devices"]] == ["0xabc"]


def test_an_agent_with_two_guests_from_a_file(rig: Rig, tmp_path: Path) -> None:
    target = rig.target(luns=2)
    api, exports = f"unix:{tmp_path}/api.sock", (free_port(), free_port())
    guests = "\n".join(
        f'[[guest]]\nname = "vm{n}"\nmachine = "pc-q35-{version}"\nexport = "127.0.0.1:{exports[n]}"\n'
        f'devices = ["scsi-block,drive={target.url(n)}"]\n'
        for n, version in enumerate(("10.2", "11.0"))
    )
    (tmp_path / "agent.toml").write_text(
        f'name = "h"\ninitiator = "iqn.2026-11.org.example:h"\nstate-dir = "{tmp_path}/state"\n'
        f'[api]\nlisten = "{api}"\n{guests}',
        encoding="utf-8",
    )
    rig.start("agent", ["agent", "--config", "agent.toml"], ports=[api, *exports])
    hosts = rig.holdover_json("status", "--api", api)
    devices = [guest["devices"][0] for guest in hosts[0]["guests"]]
    assert [device["migrate_pr"] for device in devices] == [False, True]
    assert len({device["designator"] for device in devices}) == 2


@pytest.mark.parametrize("ended", ["source", "destination"])
def test_an_agent_that_is_gone_is_named_and_nothing_has_changed(rig: Rig, ended: str) -> None:
    target = rig.target()
    source, destination = two_agents(rig, target)
    ok(rig, "pr", "register", source.url(), "--new-key", "1")
    gone = source if ended == "source" else destination
    gone.process.end()
    done = rig.holdover(
        "migrate", "db1", "--reservations-only", "--from", source.api, "--to", destination.api
    )
    assert done.returncode == 1
    assert gone.api in done.stderr
    assert "Nothing was changed." in done.stderr

    left = destination if ended == "source" else source
    shown = rig.holdover("status", "--api", gone.api, "--api", left.api)
    assert shown.returncode == 1
    rows = [line.split() for line in shown.stdout.splitlines()]
    assert [gone.api, "does", "not", "answer"] in rows
    assert any("db1" in row for row in rows)
    assert f"holdover: agent at {gone.api}: cannot connect" in shown.stderr
    as_json = rig.holdover("status", "--api", gone.api, "--api", left.api, "--json")
    assert as_json.returncode == 1
    silent, host = json.loads(as_json.stdout)
    assert silent["api"] == gone.api
    assert "cannot connect" in silent["error"]
    assert host["guests"][0]["name"] == "db1"


def test_both_agents_that_are_gone_are_named(rig: Rig) -> None:
    source, destination = (f"unix:{rig.folder}/{name}.sock" for name in ("a", "b"))
    done = rig.holdover("migrate", "db1", "--reservations-only", "--from", source, "--to", destination)
    assert done.returncode == 1
    # the source knows who its peers are, so it is asked first
    assert source in done.stderr
    shown = rig.holdover("status", "--api", source, "--api", destination)
    assert shown.returncode == 1
    assert shown.stdout == ""
    assert shown.stderr.count("holdover: agent at") == 2
