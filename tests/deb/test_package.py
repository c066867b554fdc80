"""The Debian package in a fresh Debian with a systemd of its own: installed, started, upgraded, purged."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig.debian_root import debian_root
from tests.rig.hosts import SeparateHost, separate_hosts, until
from tests.rig.package import build_packages

pytestmark = [pytest.mark.long, pytest.mark.peer("systemd-container"), pytest.mark.xdist_group("deb")]

SAN = "iscsi://san/iqn.2026-11.org.example:san/0"
GUEST_TARGET = "iqn.2026-11.org.holdover:guest.db1"
AGENT_FILE = """
name = "host-a"
initiator = "iqn.2026-11.org.example:host-a"
[[guest]]
name = "db1"
machine = "pc-q35-7.2"
export = "127.0.0.1:3261"
devices = ["scsi-block,id=disk0,drive=iscsi://san/iqn.2026-11.org.example:san/0,migrate-pr=on"]
"""
LOAD = """
while :; do
  holdover pr reservation "$1" >/dev/null || echo failed
  echo done
done
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return build_packages(tmp_path_factory.mktemp("deb"), "1", "2")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, packages: list[Path]) -> Iterator[SeparateHost]:
    """A fresh host with the first revision installed, and a SAN beside it."""
    folder = tmp_path_factory.mktemp("hosts")
    with separate_hosts(folder, "san", "host-a", roots={"host-a": debian_root()}) as hosts:
        made = hosts["host-a"]
        for each in packages:
            made.inside(f"/root/{each.name}").write_bytes(each.read_bytes())
        san = hosts["san"]
        arguments = ["--iqn", "iqn.2026-11.org.example:san", "--lun", "file=/var/lib/holdover/lun0,size=16M"]
        san.start("target", "--listen", f"{san.address}:3260", *arguments)
        until(lambda: san.listens(f"{san.address}:3260"), "the SAN does not listen")
        told = must(made, "dpkg", "-i", f"/root/{packages[0].name}")
        assert "installed and not started" in told
        yield made


def must(host: SeparateHost, *command: str) -> str:
    """What a command on a host prints; it has to succeed."""
    done = host.run(*command, timeout=600)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def agent_number(host: SeparateHost) -> str:
    return must(host, "systemctl", "show", "-P", "MainPID", "holdover-agent").strip()


def export_socket(host: SeparateHost) -> str:
    """The inode of the socket that listens at the guest's export; empty if there is none."""
    for line in must(host, "cat", "/proc/net/tcp").splitlines():
        fields = line.split()
        if fields[1].endswith(f":{3261:04X}") and fields[3] == "0A":
            return fields[9]
    return ""


def test_nothing_names_where_it_was_built_or_where_its_parts_came_from(packages: list[Path]) -> None:
    tree = packages[0].parent / "tree"
    asked = ["python3", "-m", "pip", "config", "list"]
    configured = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    words = [line.partition("=")[2].strip("'") for line in configured.splitlines()]
    secret = [word for text in words for word in text.split() if "//" in word or word.startswith("/opt/")]
    found = []
    for path in tree.rglob("*"):
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            found += [(path, each) for each in [str(tree), *secret] if each.encode() in content]
    assert found == []
    assert not list(tree.rglob("direct_url.json"))
    assert not list(tree.rglob("__pycache__/*.opt-*"))


def test_systemd_takes_the_units_as_installed(host: SeparateHost) -> None:
    units = ["holdover-agent.service", "holdover-pr-helper.service", "holdover-pr-helper.socket"]
    assert must(host, "systemd-analyze", "verify", "--recursive-errors=no", *units) == ""


def test_the_users_folders_and_the_example_are_there(host: SeparateHost) -> None:
    must(host, "getent", "group", "kvm", "holdover")
    assert must(host, "stat", "-c", "%a %U", "/var/lib/holdover").split() == ["700", "root"]
    assert must(host, "stat", "-c", "%a %U", "/run/holdover").split() == ["755", "root"]
    check = (
        "import msgspec, pathlib; from holdover.config.agent_file import AgentConfig, check_config;"
        "text = pathlib.Path('/usr/share/doc/holdover/examples/agent.toml').read_bytes();"
        "check_config(msgspec.toml.decode(text, type=AgentConfig), 'the example')"
    )
    must(host, "/opt/holdover/bin/python", "-I", "-c", check)


def test_manual_pages_and_completions_work(host: SeparateHost) -> None:
    page = must(host, "env", "MANPAGER=cat", "man", "holdover-handover")
    assert "holdover handover prepare" in page
    assert host.run("sh", "-c", "for each in /usr/share/man/man1/holdover*.gz; do "
                    "zcat $each | groff -man -Tutf8 -wmac -z || exit 1; done").stderr == ""  # fmt: skip
    offered = "source /usr/share/bash-completion/completions/holdover; complete -p holdover"
    assert "holdover" in must(host, "bash", "-c", offered)


def test_the_apparmor_profile_is_one(host: SeparateHost) -> None:
    command = ["apparmor_parser", "--skip-kernel-load", "--skip-cache", "/etc/apparmor.d/holdover"]
    assert "rror" not in must(host, *command)


def test_the_helper_answers_at_its_socket(host: SeparateHost) -> None:
    must(host, "systemctl", "start", "holdover-pr-helper.socket")
    ask = (
        "import socket; client = socket.socket(socket.AF_UNIX); client.settimeout(600);"
        "client.connect('/run/holdover/pr-helper.sock'); print(client.recv(4))"
    )
    assert r"b'\x00\x00\x00\x00'" in must(host, "python3", "-c", ask)
    must(host, "systemctl", "stop", "holdover-pr-helper.socket", "holdover-pr-helper.service")


@pytest.fixture(scope="module")
def guest(host: SeparateHost) -> str:
    """The agent runs, and its guest has a reservation; the guest's disk, as its QEMU finds it."""
    host.inside("/etc/holdover/agent.toml").write_text(AGENT_FILE)
    must(host, "systemctl", "start", "holdover-agent.service")
    until(lambda: host.holdover("status").returncode == 0, "the agent does not answer")
    secret = must(host, "cat", "/var/lib/holdover/secrets/db1.chap").strip()
    url = f"iscsi://db1%{secret}@127.0.0.1:3261/{GUEST_TARGET}/0"
    must(host, "holdover", "pr", "register", url, "--new-key", "0xdb1")
    must(host, "holdover", "pr", "reserve", url, "--key", "0xdb1", "--type", "wero")
    return url


def test_a_reload_reaches_the_agent(host: SeparateHost, guest: str) -> None:
    number = agent_number(host)
    must(host, "systemctl", "reload", "holdover-agent.service")
    assert agent_number(host) == number


def test_an_upgrade_does_not_disturb_the_guests_of_a_running_agent(
    host: SeparateHost, guest: str, packages: list[Path]
) -> None:
    number = agent_number(host)
    load = host.spawn("sh", "-c", LOAD, "load", guest)
    until(lambda: "done" in load.output(), "the guest's commands do not pass")
    told = must(host, "dpkg", "-i", f"/root/{packages[1].name}")
    assert "still runs, and its guests are not disturbed" in told
    assert "--signal=SIGUSR2 holdover-agent.service" in told
    assert "systemctl restart holdover-agent.service" in told
    before = load.output().count("done")
    until(lambda: load.output().count("done") > before, "the guest's commands do not pass any more")
    assert agent_number(host) == number
    load.kill()
    assert "failed" not in load.output()
    assert "host-a" in must(host, "holdover", "pr", "status", SAN)
    kept = export_socket(host)
    assert kept
    assert int(must(host, "systemctl", "show", "-P", "NFileDescriptorStore", "holdover-agent")) > 0
    must(host, "systemctl", "restart", "holdover-agent.service")
    assert export_socket(host) == kept, "the listening socket is another one"
    until(lambda: host.holdover("status").returncode == 0, "the new agent does not answer")
    assert agent_number(host) != number
    assert "0xdb1" in must(host, "holdover", "status")


def changed(host: SeparateHost, number: str) -> str:
    """The number of the agent that runs after that one."""
    until(lambda: agent_number(host) not in {number, "0"}, f"agent {number} is not replaced")
    until(lambda: host.holdover("status").returncode == 0, "the new agent does not answer")
    return agent_number(host)


def test_systemd_follows_an_agent_to_its_successor(host: SeparateHost, guest: str) -> None:
    kill = ("systemctl", "kill", "--kill-whom=main", "holdover-agent.service")
    number, kept = agent_number(host), export_socket(host)
    for _ in range(2):  # the second time, systemd has not started the agent itself
        must(host, *kill, "--signal=SIGUSR2")
        number = changed(host, number)
        assert export_socket(host) == kept
        assert "0xdb1" in must(host, "holdover", "status")
        assert must(host, "systemctl", "is-active", "holdover-agent").strip() == "active"
        assert must(host, "systemctl", "show", "-P", "NRestarts", "holdover-agent").strip() == "0"
    must(host, *kill, "--signal=SIGKILL")
    changed(host, number)
    assert must(host, "systemctl", "show", "-P", "NRestarts", "holdover-agent").strip() == "1"


def test_a_removal_waits_for_the_guests_and_a_purge_leaves_nothing(host: SeparateHost, guest: str) -> None:
    refused = host.run("dpkg", "--remove", "holdover")
    assert refused.returncode != 0
    assert "Its guests need it" in refused.stderr
    assert "0xdb1" in must(host, "holdover", "status")
    must(host, "systemctl", "disable", "--now", "holdover-agent.service")
    must(host, "dpkg", "--remove", "holdover")
    assert host.inside("/var/lib/holdover/journal").exists(), "a journal is kept until the purge"
    host.inside("/etc/holdover/agent.toml").unlink()
    must(host, "dpkg", "--purge", "holdover")
    found = must(host, "find", "/", "/run", "-xdev", "-iname", "*holdover*").splitlines()
    # man-db keeps what it has shown, and removes it by itself
    others = ("/root/", "/var/lib/dpkg/", "/var/cache/man/")
    assert [each for each in found if not each.startswith(others)] == []
