from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import typer

from holdover.cli.daemons.pr_helper import DEFAULT_SOCKET
from holdover.cli.main import app
from holdover.helper.server import _TURNS
from holdover.libvirt.setup_plan import LOCK_SOCKET
from tests.systemd.units import UNITS, Unit, read_unit

SERVICES = ["holdover-agent.service", "holdover-pr-helper.service"]
LOCK_SERVER = "holdover-lock-server.service"
ALL_SERVICES = [*SERVICES, LOCK_SERVER]
ALL = [*ALL_SERVICES, "holdover-pr-helper.socket", "holdover-lock-server.socket"]


def test_these_are_all_units() -> None:
    assert sorted(each.name for each in UNITS.iterdir()) == sorted(ALL)


def options_of(arguments: Sequence[str]) -> dict[str, bool]:
    """The options of the command that ``arguments`` begin with: whether each takes a value."""
    command = typer.main.get_command(app)
    found = command.get_command(None, arguments[0]) if hasattr(command, "get_command") else None
    assert found is not None, f"there is no `holdover {arguments[0]}`"
    return {
        name: not getattr(option, "is_flag", False) and not getattr(option, "count", False)
        for option in found.params
        for name in option.opts
    }


@pytest.mark.parametrize("name", ALL_SERVICES)
def test_every_option_is_one_of_the_command(name: str) -> None:
    arguments = read_unit(name).arguments
    options = options_of(arguments)
    rest = arguments[1:]
    while rest:
        option = rest.pop(0)
        assert option in options, f"{name}: {option}"
        if options[option]:
            assert rest.pop(0), f"{name}: {option} takes a value"


def test_the_helper_gets_the_socket_that_is_its_own_by_default() -> None:
    socket = read_unit("holdover-pr-helper.socket")
    assert socket.one("Socket", "ListenStream") == str(DEFAULT_SOCKET)
    assert not socket.all("Socket", "Accept"), "one helper for all connections"
    # with a path of its own it refuses a socket of systemd's
    assert not {"-k", "--socket", "-d", "--daemon"} & set(read_unit(SERVICES[1]).arguments)


def test_the_agent_reads_its_file_again_when_systemd_reloads_it() -> None:
    assert read_unit(SERVICES[0]).one("Service", "ExecReload") == "/bin/kill -HUP $MAINPID"


def test_the_agents_files_are_where_the_unit_says() -> None:
    unit = read_unit(SERVICES[0])
    assert unit.arguments == ["agent", "--config", "/etc/holdover/agent.toml"]
    for setting in ("ConfigurationDirectory", "StateDirectory", "RuntimeDirectory"):
        assert unit.one("Service", setting) == "holdover"
    assert DEFAULT_SOCKET.parent == Path("/run/holdover")


@pytest.mark.parametrize("name", ALL_SERVICES)
def test_a_service_is_closed_in(name: str) -> None:
    unit = read_unit(name)
    expected = {
        "NoNewPrivileges": "yes",
        "MemoryDenyWriteExecute": "yes",
        "ProtectSystem": "strict",
        "ProtectHome": "yes",
        "DevicePolicy": "closed",
        "SystemCallFilter": "@system-service",
        "AmbientCapabilities": "",
    }
    assert {each: unit.one("Service", each) for each in expected} == expected
    assert not unit.all("Service", "User"), (
        "multipathd listens to root alone, and libvirt's QEMUs are others'"
    )
    disks = [] if name == LOCK_SERVER else ["block-sd rw"]
    assert [each for each in unit.all("Service", "DeviceAllow") if each.startswith("block-sd")] == disks


def test_the_lock_server_listens_where_libvirt_expects_virtlockd() -> None:
    socket = read_unit("holdover-lock-server.socket")
    assert socket.one("Socket", "ListenStream") == LOCK_SOCKET
    assert socket.one("Socket", "SocketMode") == "0600"
    assert read_unit(LOCK_SERVER).one("Service", "Restart") == "always"


@pytest.mark.parametrize("name", ALL_SERVICES)
def test_each_capability_has_its_reason_beside_it(name: str) -> None:
    capabilities = read_unit(name).one("Service", "CapabilityBoundingSet").split()
    assert ("CAP_SYS_RAWIO" in capabilities) is (name != LOCK_SERVER)
    reasons = re.findall(r"^#   (CAP_\w+) +\S", (UNITS / name).read_text(), re.MULTILINE)
    assert reasons == capabilities


@pytest.mark.parametrize("name", ALL_SERVICES)
@pytest.mark.parametrize("limit", ["LimitNOFILE", "TasksMax", "MemoryMax"])
def test_each_limit_has_its_reason_above_it(name: str, limit: str) -> None:
    assert read_unit(name).one("Service", limit)
    assert re.search(rf"^# \S.*\n{limit}=", (UNITS / name).read_text(), re.MULTILINE)


def test_threads_that_wait_for_luns_have_room() -> None:
    # each LUN takes so many commands at once, each with a thread of its own
    for name in SERVICES:
        assert int(read_unit(name).one("Service", "TasksMax")) > 100 * _TURNS


def test_what_root_runs_is_installed_by_hash() -> None:
    page = (UNITS.parent / "docs" / "how-to" / "service.md").read_text()
    installs = re.findall(r"^/opt/holdover/bin/pip install .*", page, re.MULTILINE)
    fetched, own = installs
    (file,) = re.findall(r"--require-hashes -r (\S+)", fetched)
    assert "--no-deps --no-build-isolation" in own, "nothing else is fetched"
    lines = (UNITS.parent / file).read_text().replace("\\\n", " ").splitlines()
    packages = [line for line in lines if line.strip() and not line.startswith("#")]
    assert packages
    assert all("--hash=sha256:" in each for each in packages)
    assert any(each.startswith("setuptools==") for each in packages), "it builds this package"


@pytest.mark.peer("systemd")
def test_systemd_takes_them(tmp_path: Path) -> None:
    agent = read_unit(SERVICES[0])
    programs = [
        tmp_path / agent.one("Service", each).split()[0].lstrip("/") for each in ("ExecStart", "ExecReload")
    ]
    folder = tmp_path / "etc" / "systemd" / "system"
    folder.mkdir(parents=True)
    for program in programs:
        program.parent.mkdir(parents=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    for name in ALL:
        shutil.copy(UNITS / name, folder)
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", f"--root={tmp_path}", *ALL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.peer("systemd")
@pytest.mark.parametrize(("name", "most"), [(SERVICES[0], 30), (SERVICES[1], 20), (LOCK_SERVER, 20)])
def test_systemd_finds_little_exposed(name: str, most: int) -> None:
    """In tenths: without any hardening a service has 96."""
    command = ["systemd-analyze", "security", "--offline=yes", "--no-pager", f"--threshold={most}"]
    done = subprocess.run([*command, str(UNITS / name)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-300:]


def test_what_is_no_setting_is_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tests.systemd.units.UNITS", tmp_path)
    (tmp_path / "a.service").write_text("[Service]\n# why\nExecStart=/opt/x/holdover agent --config 'a b'\n")
    assert read_unit("a.service").arguments == ["agent", "--config", "a b"]
    assert read_unit("a.service") == Unit((("Service", "ExecStart", "/opt/x/holdover agent --config 'a b'"),))
    (tmp_path / "b.service").write_text("[Service]\nnonsense\n")
    with pytest.raises(AssertionError, match=r"b.service:2: nonsense"):
        read_unit("b.service")
