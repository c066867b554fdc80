"""Pages whose commands need systemd and the package, typed as they stand on a fresh Debian.

The tests are one story, in this order: install, run as a service, read logs, replace qemu-pr-helper, upgrade.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deb.test_package import AGENT_FILE, SAN, agent_number, must
from tests.docs.typist import Typist, lines_of
from tests.rig.debian_root import debian_root
from tests.rig.hosts import SeparateHost, separate_hosts, until
from tests.rig.package import build_packages

pytestmark = [pytest.mark.long, pytest.mark.peer("systemd-container"), pytest.mark.xdist_group("deb")]

KEY = "0xdb1"
AGENT_TOML = "/etc/holdover/agent.toml"
NO_DISK = "scsi-block,id=disk1,drive=iscsi://san/iqn.2026-11.org.example:none/0,migrate-pr=on"
NO_DISK_SAYS = "The disks of a guest are not yet those of the agent's file"
EDITOR = """#!/bin/sh
printf '%s\\n' "$WORDS" | sed -i '/^### Anything between here/r /dev/stdin' "$1"
"""
"""Somebody at systemd's editor, who adds lines where a drop-in begins."""
UNITS = {
    "qemu-pr-helper.socket": "[Socket]\nListenStream=/run/qemu-pr-helper.sock\nSocketMode=0600\n"
    "[Install]\nWantedBy=multi-user.target\n",
    "qemu-pr-helper.service": "[Service]\nExecStart=/usr/bin/qemu-pr-helper\n",
}
"""The units of distributions that have qemu-pr-helper as a service; Debian has its program alone."""
SERVICES = ("qemu-pr-helper.service", "holdover-pr-helper.service", "holdover-agent.service")
FEATURES = (
    "import socket; client = socket.socket(socket.AF_UNIX); client.settimeout(60);"
    "client.connect({path!r}); print(client.recv(4).hex())"
)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return build_packages(tmp_path_factory.mktemp("deb"), "1", "2")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, packages: list[Path]) -> Iterator[SeparateHost]:
    """A fresh host with the package's file, and a SAN beside it."""
    folder = tmp_path_factory.mktemp("hosts")
    with separate_hosts(folder, "san", "host-a", roots={"host-a": debian_root()}) as hosts:
        made, san = hosts["host-a"], hosts["san"]
        shutil.copy(packages[0], made.inside("/root"))
        arguments = ["--iqn", "iqn.2026-11.org.example:san", "--lun", "file=/var/lib/holdover/lun0,size=16M"]
        san.start("target", "--listen", f"{san.address}:3260", *arguments)
        until(lambda: san.listens(f"{san.address}:3260"), "the SAN does not listen")
        made.inside("/usr/local/bin/types").write_text(EDITOR)
        made.inside("/usr/local/bin/types").chmod(0o755)
        yield made


def typist(host: SeparateHost, **names: str) -> Typist:
    return Typist(Path("/root"), names, {}, None, host)


def edit(host: SeparateHost, command: str, words: str) -> None:
    """A command that opens an editor, in which somebody adds these words."""
    editor = ("env", "SYSTEMD_EDITOR=/usr/local/bin/types", f"WORDS={words}")
    must(host, *editor, "script", "--quiet", "--return", "--command", command, "/dev/null")


def answers(host: SeparateHost) -> None:
    until(lambda: host.holdover("status").returncode == 0, "the agent does not answer")


def features(host: SeparateHost, path: str) -> str:
    """What a helper says first to a QEMU that connects."""
    return must(host, "python3", "-c", FEATURES.format(path=path)).strip()


def is_served_by(host: SeparateHost, path: str, service: str) -> None:
    """A QEMU that connects there reaches that service and none of the others."""
    assert features(host, path) == "00000000"
    active = must(host, "systemctl", "list-units", "--plain", "--no-legend", "--state=active", *SERVICES)
    assert [line.split()[0] for line in active.splitlines()] == [service]


def test_install_and_run_as_a_service(host: SeparateHost) -> None:
    operator = typist(host)
    install, example, agent, helper = lines_of("how-to/service.md", "The Debian package")
    operator.line(install)
    operator.line(example)
    host.inside(AGENT_TOML).write_text(AGENT_FILE)  # "then change it"
    operator.line(agent)
    operator.line(helper)
    answers(host)
    assert must(host, "systemctl", "is-enabled", "holdover-agent", "holdover-pr-helper.socket").split() == [
        "enabled",
        "enabled",
    ]
    assert features(host, "/run/holdover/pr-helper.sock") == "00000000"
    must(host, "systemctl", "disable", "--now", "holdover-pr-helper.socket")
    must(host, "systemctl", "stop", "holdover-pr-helper.service")


def test_completion_in_the_shell(host: SeparateHost) -> None:
    operator = typist(host)
    here, *fish = lines_of("how-to/service.md", "Completion in the shell")
    assert "holdover" in operator.line(f"{operator.command(here)}; complete -p holdover")
    for line in fish:
        operator.line(line)
    assert "holdover" in must(host, "cat", "/root/.config/fish/completions/holdover.fish")


def test_a_profile_of_apparmor_is_named_in_a_drop_in(host: SeparateHost) -> None:
    """No kernel here has AppArmor, so systemd names the profile and does nothing with it."""
    (command,) = lines_of("how-to/service.md", "AppArmor")
    edit(host, command.partition("#")[0], "[Service]\nAppArmorProfile=holdover-agent")
    must(host, "systemctl", "restart", "holdover-agent")
    answers(host)
    assert "AppArmorProfile=holdover-agent" in must(host, "systemctl", "cat", "holdover-agent")
    must(host, "systemctl", "revert", "holdover-agent")
    must(host, "systemctl", "restart", "holdover-agent")


@pytest.fixture(scope="module")
def guest(host: SeparateHost) -> str:
    """The guest has its reservation."""
    answers(host)
    secret = must(host, "cat", "/var/lib/holdover/secrets/db1.chap").strip()
    url = f"iscsi://db1%{secret}@127.0.0.1:3261/iqn.2026-11.org.holdover:guest.db1/0"
    must(host, "holdover", "pr", "register", url, "--new-key", KEY)
    must(host, "holdover", "pr", "reserve", url, "--key", KEY, "--type", "wero")
    return url


def test_logs(host: SeparateHost, guest: str) -> None:
    operator = typist(host)
    of_guest, of_handover = lines_of("how-to/logs.md")
    # a disk that is not there, so that the agent has something to say of the guest
    host.inside(AGENT_TOML).write_text(AGENT_FILE.replace('migrate-pr=on"]', f'migrate-pr=on", "{NO_DISK}"]'))
    must(host, "systemctl", "reload", "holdover-agent")
    until(lambda: NO_DISK_SAYS in operator.line(of_guest), "the agent says nothing of the guest's disk")
    host.inside(AGENT_TOML).write_text(AGENT_FILE)
    must(host, "systemctl", "reload", "holdover-agent")
    assert "No entries" in operator.line(of_handover)  # this host has no peer, so there was no handover


def test_an_upgrade(host: SeparateHost, guest: str, packages: list[Path]) -> None:
    host.inside(f"/root/{packages[0].name}").unlink()
    shutil.copy(packages[1], host.inside("/root"))
    number, operator = agent_number(host), typist(host)
    install, status, signal, journal, wait, top = lines_of("how-to/upgrade.md")
    operator.line(install)
    assert agent_number(host) == number
    operator.line(status)
    operator.line(signal)
    until(lambda: "The successor is ready; this agent ends." in operator.line(journal), "no successor")
    until(lambda: agent_number(host) != number, "systemd does not follow")
    assert KEY in operator.line(wait)
    assert packages[1].name.split("_")[1].partition("-")[0] in operator.line(top)
    assert KEY in must(host, "holdover", "pr", "status", SAN)


def test_a_journal_is_looked_at(host: SeparateHost, guest: str) -> None:
    operator = typist(host)
    for line in lines_of("how-to/journal.md"):
        assert operator.line(line)


def test_from_qemu_pr_helper_and_back(host: SeparateHost, guest: str) -> None:
    """The guests' path is that of qemu-pr-helper's own unit, all the time."""
    page, operator = "how-to/from-qemu-pr-helper.md", typist(host)
    path = "/run/qemu-pr-helper.sock"
    for name, text in UNITS.items():
        host.inside(f"/etc/systemd/system/{name}").write_text(text)
    must(host, "systemctl", "daemon-reload")
    must(host, "systemctl", "stop", "holdover-agent")
    must(host, "systemctl", "enable", "--now", "qemu-pr-helper.socket")
    is_served_by(host, path, "qemu-pr-helper.service")

    stop, start = lines_of(page, "The helper alone")
    edit(host, "systemctl edit holdover-pr-helper.socket", f"[Socket]\nListenStream=\nListenStream={path}")
    operator.line(stop)
    operator.line(start)
    is_served_by(host, path, "holdover-pr-helper.service")
    must(host, "systemctl", "disable", "--now", "holdover-pr-helper.socket")
    must(host, "systemctl", "stop", "holdover-pr-helper.service")
    must(host, "systemctl", "revert", "holdover-pr-helper.socket")

    config = host.inside(AGENT_TOML)
    config.write_text(f'{AGENT_FILE}[helper]\nsocket = "{path}"\n')
    edit(host, "systemctl edit holdover-agent", "[Service]\nReadWritePaths=/run")
    must(host, "systemctl", "enable", "--now", "qemu-pr-helper.socket")
    stop, start, status = lines_of(page, "The agent")
    operator.line(stop)
    operator.line(start)
    assert KEY in operator.line(status)
    is_served_by(host, path, "holdover-agent.service")

    status, stop, start = lines_of(page, "Back")
    assert KEY in operator.line(status)
    operator.line(stop)
    operator.line(start)
    is_served_by(host, path, "qemu-pr-helper.service")
    assert KEY in must(host, "holdover", "pr", "status", SAN)
