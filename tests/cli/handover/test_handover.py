"""``holdover handover ...``, as those type it whose migration is driven by something else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_commands import ok, two_agents
from tests.rig.agents import real_agents
from tests.rig.processes import Agent, Rig


def reserved(rig: Rig) -> tuple[Agent, Agent, str]:
    target = rig.target()
    source, destination = two_agents(rig, target)
    ok(rig, "pr", "register", source.url(), "--new-key", "0xabc", "--aptpl")
    ok(rig, "pr", "reserve", source.url(), "--key", "0xabc", "--type", "wero")
    return source, destination, target.url()


def holder(rig: Rig, url: str) -> str:
    status = rig.holdover_json("pr", "status", url)
    (found,) = (each for each in status["registrants"] if each["holder"])
    return str(found["initiator"]).split(",", maxsplit=1)[0].rpartition(":")[2]


def test_prepare_commit_finish(rig: Rig) -> None:
    source, destination, url = reserved(rig)
    at = ("db1", "--at", source.api)
    none = rig.holdover("handover", "status", *at)
    assert none.returncode == 1
    assert "guest db1 has not been handed over" in none.stderr

    prepared = ok(rig, "handover", "prepare", *at, "--to", destination.api, "--id", "h1")
    assert "0xabc  wero (5)  yes    0" in prepared
    assert "guest db1 runs on host-a with its reservations; its keys are registered on" in prepared
    assert f"holdover handover commit db1 --at {source.api}" in prepared
    assert holder(rig, url) == "host-a"
    again = rig.holdover_json("handover", "prepare", *at, "--to", destination.api, "--id", "h1")
    assert (again["handover_id"], again["state"], again["role"]) == ("h1", "prepared", "source")

    assert "host-a: guest db1: handover h1 is prepared" in ok(rig, "status", "--api", source.api)

    early = rig.holdover("handover", "finish", *at)
    assert early.returncode == 1
    assert "Now: guest db1 runs on host-a with its reservations" in early.stderr

    assert "reservations are on" in ok(rig, "handover", "commit", *at)
    assert holder(rig, url) == "host-b"
    assert rig.holdover_json("handover", "commit", *at, "--id", "h1")["state"] == "committed"
    there = rig.holdover_json("handover", "status", "db1", "--at", destination.api)
    assert (there["role"], there["state"]) == ("destination", "committed")
    assert "(handover h1 is gone)" in ok(rig, "handover", "finish", *at)
    assert rig.holdover_json("handover", "status", *at)["open"] is False


def test_roll_back(rig: Rig) -> None:
    source, destination, url = reserved(rig)
    at = ("db1", "--at", source.api)
    for commit in (False, True):
        ok(rig, "handover", "prepare", *at, "--to", destination.api)
        if commit:
            ok(rig, "handover", "commit", *at)
        back = ok(rig, "handover", "rollback", *at)
        assert "guest db1 is on host-a with its reservations" in back
        assert "Rolled back because: it was asked for" in back
        assert holder(rig, url) == "host-a"
        assert len(rig.holdover_json("pr", "status", url)["registrants"]) == 1


def test_a_dead_source_is_taken_from(rig: Rig) -> None:
    source, destination, url = reserved(rig)
    ok(rig, "handover", "prepare", "db1", "--at", source.api, "--to", destination.api)
    source.process.popen.kill()
    at = ("db1", "--at", destination.api)
    taken = ok(rig, "handover", "take", *at)
    assert "were taken from" in taken
    assert holder(rig, url) == "host-b"
    assert len(rig.holdover_json("pr", "status", url)["registrants"]) == 1
    assert "guest db1 is on host-b with its reservations" in ok(rig, "handover", "finish", *at)


def test_what_was_not_done_says_what_is_true(rig: Rig) -> None:
    source, destination, _ = reserved(rig)
    at = ("db1", "--at", source.api)
    unknown = rig.holdover("handover", "commit", *at, "--id", "no such", "--json")
    assert unknown.returncode == 1
    assert json.loads(unknown.stdout)["in_doubt"] is False
    wrong = rig.holdover("handover", "prepare", *at, "--to", "nobody")
    assert wrong.returncode == 2
    assert "host-a has no peer of that name; its peers are host-b" in wrong.stderr
    destination.process.end()
    unasked = rig.holdover("handover", "prepare", *at, "--to", destination.api)
    assert (unasked.returncode, "Nothing was changed: no step was asked for." in unasked.stderr) == (1, True)
    gone = rig.holdover("handover", "prepare", *at, "--to", "host-b")
    assert gone.returncode == 1
    assert "nothing was changed" in gone.stderr
    source.process.end()
    silent = rig.holdover("handover", "commit", *at)
    assert silent.returncode == 1
    assert "Nothing was changed: no step was asked for." in silent.stderr
    assert "Traceback" not in gone.stderr + silent.stderr + wrong.stderr


@pytest.mark.parametrize("suffix", [".html", ".json"])
def test_where_the_time_went(rig: Rig, tmp_path: Path, suffix: str) -> None:
    source, destination, _ = reserved(rig)
    file = tmp_path / f"trace{suffix}"
    moved = rig.holdover(
        *(
            "migrate",
            "db1",
            "--reservations-only",
            "--from",
            source.api,
            "--to",
            destination.api,
            "--trace",
            str(file),
        )
    )
    assert moved.returncode == 0, moved.stderr
    for what in ("message commit", "state preempting", "PREEMPT", "READ RESERVATION", "holdover migrate"):
        assert what in moved.stdout
        assert what in file.read_text()
    before = file.read_text()
    both = ("--destination", destination.api)
    assert "PREEMPT" in ok(rig, "handover", "trace", "db1", str(file), "--at", source.api, *both)
    assert "PREEMPT" in file.read_text()
    assert file.read_text() != before
    alone = ok(rig, "handover", "trace", "db1", str(file), "--at", source.api)
    assert "PREEMPT" not in alone
    assert "message commit" in alone
    destination.process.end()
    half = rig.holdover("handover", "trace", "db1", str(file), "--at", source.api, *both)
    assert half.returncode == 1
    assert "message commit" in half.stdout
    assert f"lacks the destination's part: agent at {destination.api}" in half.stderr


def test_a_trace_of_what_failed_is_written_too(rig: Rig, tmp_path: Path) -> None:
    source, destination, _ = reserved(rig)
    file = tmp_path / "trace.json"
    options = ("--from", source.api, "--to", destination.api, "--trace", str(file), "--json")
    failed = rig.holdover("migrate", "db1", *options, "--fail-after", "commit")
    assert failed.returncode == 1
    assert json.loads(failed.stdout)["in_doubt"] is False
    assert "roll back" in file.read_text()
    wrong = rig.holdover("migrate", "db1", *options[:4], "--trace", "trace.txt")
    assert wrong.returncode == 2
    assert ".html" in wrong.stderr


def test_peers_are_called_by_their_names(rig: Rig, tmp_path: Path) -> None:
    target = rig.target()
    agents = real_agents(rig, "db1", [target.url()])
    for agent in agents.values():
        agent.start()
    source, destination = agents.values()
    ok(rig, "pr", "register", source.url(), "--new-key", "0xabc")
    at = ("db1", "--at", source.api)
    for address in (destination.api, destination.address):
        by_address = rig.holdover_json("handover", "prepare", *at, "--to", address)
        assert by_address["peer"] == "host-b"
        ok(rig, "handover", "rollback", *at)
    for command in (
        ["migrate", "db1", "--reservations-only"],
        ["migrate", "db1"],
        ["handover", "prepare", "db1"],
    ):
        none = rig.holdover(*command, "--at", source.api, "--to", "host-c")
        assert (none.returncode, none.stderr) == (
            2,
            "holdover: --to host-c: host-a has no peer of that name; its peers are host-b\n",
        )
    file = tmp_path / "trace.json"
    moved = ok(
        rig,
        "migrate",
        "db1",
        "--reservations-only",
        "--from",
        source.api,
        "--to",
        "host-b",
        "--trace",
        str(file),
    )
    assert "Guest db1 moved from host-a to host-b" in moved
    # the destination's part is for those whom it knows, by a certificate or at its socket
    assert "message commit" in moved
    assert "state registering" not in moved
    hosts = rig.holdover_json("status", "--api", source.api)
    assert hosts[0]["peers"] == [{"name": "host-b", "api": destination.address}]


def test_a_policy_that_there_is_not(rig: Rig) -> None:
    done = rig.holdover("migrate", "db1", "--to", "host-b", "--stale", "maybe")
    assert done.returncode == 2
    assert "is not one of 'refuse', 'reread', 'force'" in done.stderr
