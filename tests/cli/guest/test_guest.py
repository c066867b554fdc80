"""`holdover guest secret`: what it prints is what QEMU needs."""

from __future__ import annotations

import subprocess

import pytest

from holdover.agent.guests.chap_secrets import ChapSecrets
from tests.rig.processes import Rig


def qemu_img(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["qemu-img", "info", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.peer("qemu-utils", "qemu-block-extra")
def test_qemu_gets_in_with_what_it_prints_and_not_without(rig: Rig) -> None:
    agent = rig.agent("host-a", guest="db1", drives=[rig.target(size="64M").url()])
    printed = rig.holdover("guest", "secret", "db1", "--at", agent.api)
    assert printed.returncode == 0, printed.stderr
    lines = dict(line.split(" ", 1) for line in printed.stdout.splitlines() if line.startswith("-"))
    disk = lines["-blockdev"].replace(",node-name=disk0", "")
    with_secret = qemu_img("--object", lines["-object"], "--image-opts", disk)
    assert with_secret.returncode == 0, with_secret.stderr
    assert "64 MiB" in with_secret.stdout
    without = qemu_img("--image-opts", disk.replace(",user=db1,password-secret=holdover", ""))
    assert without.returncode != 0


def test_what_it_says_for_machines_and_for_libvirt(rig: Rig) -> None:
    agent = rig.agent("host-a", guest="db1", drives=[rig.target(luns=2).url(0), rig.target().url()])
    found = rig.holdover_json("guest", "secret", "db1", "--at", agent.api)
    secret = agent.secret_file.read_text()
    assert found == {
        "portal": agent.portal,
        "target": agent.iqn,
        "luns": ["disk0", "disk1"],
        "numbers": [0, 1],
        "user": "db1",
        "secret": secret,
        "file": str(agent.secret_file),
    }
    said = rig.holdover("guest", "secret", "db1", "--at", agent.api).stdout
    assert f"# CHAP secret: {secret}" in said
    assert f"virsh secret-set-value --plain --file {agent.secret_file} UUID" in said
    assert "<auth username='db1'><secret type='iscsi' usage='holdover-db1'/></auth>" in said
    # nowhere else
    assert secret not in agent.process.output()
    assert secret not in rig.holdover("status", "--api", agent.api, "--json").stdout


def test_a_guest_that_is_not_there_and_a_secret_that_others_can_read(rig: Rig) -> None:
    agent = rig.agent("host-a", guest="db1", drives=[rig.target().url()])
    unknown = rig.holdover("guest", "secret", "db2", "--at", agent.api)
    assert (unknown.returncode, "there is no guest 'db2'" in unknown.stderr) == (1, True)
    agent.secret_file.chmod(0o644)
    loose = rig.holdover("guest", "secret", "db1", "--at", agent.api)
    assert loose.returncode == 1
    assert "others can read this secret (mode 0644)" in loose.stderr


def test_an_agent_that_cannot_keep_a_secret_does_not_start(rig: Rig) -> None:
    (rig.folder / "host-a.state").mkdir()
    (rig.folder / "host-a.state" / "secrets").write_text("a file")
    with pytest.raises(AssertionError, match="guest db1: the CHAP secret of its export cannot be kept in"):
        rig.agent("host-a", guest="db1", drives=[rig.target().url()])
    assert not ChapSecrets(rig.folder / "host-a.state").file("db1").exists()


def test_open_exports_say_so(rig: Rig) -> None:
    lun = rig.target().url()
    host = rig.hosts["host-a"]
    arguments = ["agent", "--name", "host-a", *host.options(rig.hosts)]
    arguments += ["--initiator", "iqn.2026-11.org.holdover:host-a", "--guest", "db1", "--machine", "pc"]
    arguments += ["--device", f"scsi-block,id=disk0,drive={lun}", "--export-open", "--ephemeral"]
    wide = rig.holdover(*arguments, "--export", "0.0.0.0:3261")
    assert wide.returncode == 2
    assert "guest db1: export-open: 0.0.0.0:3261 can be reached from other machines" in wide.stderr
    agent = rig.start("host-a", [*arguments, "--export", "127.0.0.1:0"], ports=[host.api])
    said = rig.holdover("guest", "secret", "db1", "--at", host.api)
    assert "lets everybody log in (export-open)" in said.stdout
    assert "asks for no secret (export-open)" in agent.output()
    assert "guest db1: export-open: every process" in rig.holdover("status", "--api", host.api).stdout
