"""Pages whose commands need systemd and the package, typed as they stand on a fresh Debian.

The tests are one story, in this order: install, run as a service, upgrade, look at the journal.
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
        yield made


def typist(host: SeparateHost, **names: str) -> Typist:
    return Typist(Path("/root"), names, {}, None, host)


def answers(host: SeparateHost) -> None:
    until(lambda: host.holdover("status").returncode == 0, "the agent does not answer")


def features(host: SeparateHost, path: str) -> str:
    """What a helper says first to a QEMU that connects."""
    return must(host, "python3", "-c", FEATURES.format(path=path)).strip()


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


@pytest.fixture(scope="module")
def guest(host: SeparateHost) -> str:
    """The guest has its reservation."""
    answers(host)
    secret = must(host, "cat", "/var/lib/holdover/secrets/db1.chap").strip()
    url = f"iscsi://db1%{secret}@127.0.0.1:3261/iqn.2026-11.org.holdover:guest.db1/0"
    must(host, "holdover", "pr", "register", url, "--new-key", KEY)
    must(host, "holdover", "pr", "reserve", url, "--key", KEY, "--type", "wero")
    return url


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
