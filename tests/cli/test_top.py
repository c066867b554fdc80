"""`holdover top` and `holdover dashboard` as people type them."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from http.cookiejar import CookieJar
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from holdover.cli.fleet.top import shown
from holdover.fleet.documents import Fleet
from holdover.fleet.picture import HostAnswer, picture
from tests.fleet.sites import answer, device, guest, handover, host, migration
from tests.rig.processes import Agent, Rig, free_port

SITE = [
    answer(
        host("host-a", guest("host-a", device(held=3)), guest("host-a", name="empty")),
        migrations=(migration(),),
        handovers=(handover(handover_id="m1", in_doubt=True, problem="host-b does not answer"),),
    ),
    answer(host("host-b", guest("host-b", device("incoming", key=None, kind=None)))),
    HostAnswer("host-c:8471", "host-c", problem="cannot connect"),
]


def agent_of(rig: Rig) -> Agent:
    return rig.agent("host-a", guest="db1", drives=[rig.target().url()])


def test_everything_fits_80_columns() -> None:
    console = Console(width=80, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(shown(picture(SITE, 0.0), live=True))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    for part in ("in doubt", "75%", "3 held", "wero", "does not answer", "holdover handover status db1"):
        assert part in text, part


def test_without_a_terminal_it_shows_one_picture(rig: Rig) -> None:
    agent = agent_of(rig)
    done = rig.holdover("top", "--api", agent.api)
    assert done.returncode == 0, done.stderr
    assert "db1" in done.stdout
    fleet = msgspec.json.decode(rig.holdover("top", "--json", "--api", agent.api).stdout, type=Fleet)
    assert [each.name for each in fleet.hosts] == ["host-a"]
    assert [each.place for each in fleet.guests] == ["here"]
    silent = rig.holdover("top", "--json", "--api", f"unix:{rig.folder}/none.sock")
    assert silent.returncode == 1
    assert "is it running" in silent.stdout


def test_the_key_q_ends_it(rig: Rig) -> None:
    agent = agent_of(rig)
    here, there = pty.openpty()
    command = [sys.executable, "-m", "holdover", "top", "--interval", "3600", "--api", agent.api]
    process = subprocess.Popen(
        command,
        stdin=there,
        stdout=there,
        stderr=there,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(there)
    seen = b""
    while b"db1" not in seen:
        seen += os.read(here, 4096)
    os.write(here, b"q")
    with open(here, "rb", buffering=0) as rest:
        try:
            while rest.read(4096):
                pass
        except OSError:
            pass  # the terminal's other end is closed
    assert process.wait() == 0
    assert b"\x1b[?1049h" in seen  # the alternate screen


def test_the_dashboard_gives_its_address_once(rig: Rig) -> None:
    agent = agent_of(rig)
    port = free_port()
    process = rig.start("dashboard", ["dashboard", "--port", str(port), "--api", agent.api], ports=[port])
    while "Ctrl-C" not in process.output():
        time.sleep(0.05)
    found = re.search(r"http://(127\.0\.0\.1:\d+)/\?token=\S+", process.output())
    assert found is not None
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
    assert b"<title>Holdover</title>" in opener.open(found[0]).read()
    fleet = msgspec.json.decode(opener.open(f"http://{found[1]}/fleet.json").read(), type=Fleet)
    assert [each.name for each in fleet.hosts] == ["host-a"]
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(found[0])  # noqa: S310


def test_a_port_that_is_taken_is_named(rig: Rig, tmp_path: Path) -> None:
    target = rig.target()
    done = rig.holdover("dashboard", "--port", str(target.port), "--api", f"unix:{tmp_path}/a.sock")
    assert done.returncode == 1
    assert f"127.0.0.1:{target.port}: Address already in use; choose another --port" in done.stderr
