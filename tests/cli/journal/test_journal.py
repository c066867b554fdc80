"""`holdover journal`: what is in a journal, whole, damaged or in use."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from holdover.journal.journal import Journal
from tests.journal.support import device, guest, step
from tests.rig.processes import Rig

NAA = "naa.600140500000000a"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A journal with a guest, its device and a handover in two states."""
    file = tmp_path / "journal"

    async def fill() -> None:
        journal = Journal.open(file)
        await journal.put(guest(), device(body=b'{"key":4660}'), step(state="prepared", at=0))
        await journal.put(step(state="[done]", at=1, is_open=False, body=b"\xff"))
        await journal.close()

    asyncio.run(fill())
    return file


def damage(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b'{"key":4660}', b'{"key":4661}'))


def test_a_whole_one_is_shown(rig: Rig, file: Path) -> None:
    done = rig.holdover("journal", "show", str(file))
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["db1", "-", "pc-q35-7.2", "configured", "-"] in lines
    assert ["db1", NAA, "/dev/sda", '{"key":"0x1234"}'] in lines
    about = ["h1", "db1", "source", "host-b", "[done]", "no", "1970-01-01T00:00:01+00:00", "2"]
    assert about in lines


def test_it_is_shown_to_machines(rig: Rig, file: Path) -> None:
    shown = json.loads(rig.holdover("journal", "show", "--json", str(file)).stdout)
    assert shown["check"]["whole"] is True
    assert shown["guests"] == [
        {"name": "db1", "uuid": None, "machine_type": "pc-q35-7.2", "origin": "configured", "process": ""}
    ]
    assert shown["devices"] == [
        {"guest": "db1", "designator": NAA, "drive": "/dev/sda", "body": {"key": "0x1234"}}
    ]
    (handover,) = shown["handovers"]
    assert [state["state"] for state in handover["states"]] == ["prepared", "[done]"]
    assert [state["body"] for state in handover["states"]] == [{}, "/w=="]


def test_a_whole_one_is_said_to_be(rig: Rig, file: Path) -> None:
    done = rig.holdover("journal", "check", str(file))
    says = "whole: 1 guest, 1 device, 1 handover (0 open), as of transaction 3"
    assert (done.returncode, done.stdout) == (0, f"{file}: {says}\n")


def test_one_in_use_names_the_process(rig: Rig, file: Path) -> None:
    async def test() -> None:
        journal = Journal.open(file)
        done = await asyncio.to_thread(rig.holdover, "journal", "check", "--json", str(file))
        found = json.loads(done.stdout)
        assert (found["whole"], found["open_by"], found["transaction"]) == (True, os.getpid(), 4)
        await journal.close()

    asyncio.run(test())


def test_a_damaged_one_is_shown_as_far_as_it_is_readable(rig: Rig, file: Path) -> None:
    damage(file)
    before = {path.name: path.read_bytes() for path in file.parent.iterdir() if path.is_file()}
    done = rig.holdover("journal", "show", str(file))
    assert done.returncode == 1
    assert "pc-q35-7.2" in done.stdout
    assert "/dev/sda" not in done.stdout
    assert f"journal {file}: damaged: table device: row db1/{NAA} has a wrong checksum\n" in done.stderr
    assert "an agent does not start with this journal; put a good copy in its place" in done.stderr
    after = {path.name: path.read_bytes() for path in file.parent.iterdir() if path.is_file()}
    assert {name: after[name] for name in before} == before


def test_a_damaged_one_is_said_to_be(rig: Rig, file: Path) -> None:
    damage(file)
    done = rig.holdover("journal", "check", str(file))
    assert done.returncode == 1
    assert done.stdout.startswith(
        f"{file}: damaged; these can be read: 1 guest, 0 devices, 1 handover (0 open)"
    )
    done = rig.holdover("journal", "check", "--json", str(file))
    found = json.loads(done.stdout)
    assert (done.returncode, found["whole"], found["devices"]) == (1, False, 0)
    assert found["findings"][0] == f"table device: row db1/{NAA} has a wrong checksum"


@pytest.mark.parametrize("what", ["show", "check"])
def test_what_is_no_journal_is_refused(rig: Rig, tmp_path: Path, what: str) -> None:
    none = tmp_path / "none"
    done = rig.holdover("journal", what, str(none))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"holdover: journal {none}: No such file or directory; ")
    none.write_text("something else")
    done = rig.holdover("journal", what, str(none))
    assert done.returncode == 2
    assert "it is not a journal of Holdover" in done.stderr
