"""The reference of files has each file that an agent makes, with its mode, and those of the package."""

from __future__ import annotations

import stat
from pathlib import Path

import deb.build
from pages.files_page import STATE, files_page

from holdover.cli.daemons.pr_helper import DEFAULT_SOCKET
from tests.rig.processes import Rig
from tests.systemd.units import read_unit

KNOWN = {each.name: each.mode for each in STATE}


def test_an_agent_makes_these_files_and_no_others(rig: Rig) -> None:
    agent = rig.agent("host-a", guest="db1", drives=[rig.target().url()])
    done = rig.holdover("pr", "register", agent.url(), "--new-key", "0xdb1")
    assert done.returncode == 0, done.stderr
    assert "0xdb1" in rig.holdover("history", "--api", agent.api).stdout
    folder = rig.folder / "host-a.state"
    found = {
        str(path.relative_to(folder)).replace(f"{agent.guest}.chap", "GUEST.chap"): stat.S_IMODE(
            path.stat().st_mode
        )
        for path in folder.rglob("*")
    }
    assert {name: f"{mode:04o}" for name, mode in found.items()} == {
        name: mode for name, mode in KNOWN.items() if name in found
    }
    assert {"journal", "journal-wal", "journal.mark", "history.db", "secrets/GUEST.chap"} <= set(found)


def test_the_sockets_of_units_are_where_the_page_says() -> None:
    page = files_page()
    for name in ("holdover-lock-server.socket", "holdover-pr-helper.socket"):
        unit = read_unit(name)
        row = f"| `{unit.one('Socket', 'ListenStream')}` | {unit.one('Socket', 'SocketMode')} |"
        assert row in page
    assert str(DEFAULT_SOCKET) in page


def test_the_package_has_what_the_page_says() -> None:
    source = Path(deb.build.__file__).read_text()
    rows = files_page().partition("## The package's")[2]
    named = [
        each.strip("` ")
        for line in rows.splitlines()
        if line.startswith("| `/")
        for each in line.split("|")[1].split(",")
    ]
    assert len(named) == 8
    for each in named:
        assert (
            each.removeprefix("/").removesuffix("*").removesuffix("/holdover-").removesuffix("/holdover")
            in source
        ), each
