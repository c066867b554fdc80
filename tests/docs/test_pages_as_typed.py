"""Pages whose commands are typed as they stand: a host dies, a journal is lost, a guest starts elsewhere."""

from __future__ import annotations

import re
import shutil
import signal
from pathlib import Path

import pytest

from holdover.demo.processes import free_port
from tests.docs.test_quick_start import on_free_ports, run
from tests.docs.typist import BLOCK, DOCS, Typist, lines_of
from tests.rig.agents import real_agents
from tests.rig.hosts import until
from tests.rig.processes import Rig
from tests.runbook.operator import KEY, Site

pytestmark = pytest.mark.long


@pytest.fixture
def site(rig: Rig) -> Site:
    """The guest is on host-a, registered, and holds the reservation; both agents run."""
    made = Site(rig)
    made.start()
    made.register()
    return made


def holders(site: Site) -> str:
    return site.works("pr", "status", site.target.url(), "--initiator", "iqn.2026-11.org.example:looks")


def test_a_cold_start(site: Site) -> None:
    typist = Typist(site.rig.folder, {}, {"HOLDOVER_API": site.b.api})
    typist.type("how-to/cold-start.md")
    assert KEY in typist.said["holdover status"]
    assert ":host-b," in holders(site)
    assert ":host-a," not in holders(site)


def test_a_host_that_has_died(site: Site) -> None:
    """On the page host-b has died; here it is host-a, and somebody types on host-b."""
    site.a.kill()
    typist = Typist(site.rig.folder, {"host-b": "host-a"}, {"HOLDOVER_API": site.b.api})
    hosts, handover, *_ = lines_of("how-to/dead-host.md")
    typist.line(hosts)
    typist.line(handover, fails=True)  # there was none
    declared, started, alive, *rest = list(lines_of("how-to/dead-host.md", "No handover was under way"))
    typist.line(declared)
    typist.line(started)
    assert ":host-b," in holders(site)
    assert ":host-a," not in holders(site)
    site.start("host-a")
    # It hears so from the first peer that answers.
    until(lambda: "declared this host dead" in site.works("status", "--api", site.a.api), "it has not heard")
    typist.line(alive)
    for line in rest:
        typist.line(line)
    assert ":host-b," in holders(site)


@pytest.mark.parametrize("command", ["take", "rollback"])
def test_a_host_that_has_died_during_a_handover(site: Site, command: str) -> None:
    page = (Path(__file__).parents[2] / "docs/how-to/dead-host.md").read_text()
    assert site.prepare("--id", "h1").returncode == 0
    if command == "take":
        assert "`holdover handover take db1`" in page
        site.a.kill()
        site.works("handover", "take", "db1", "--at", site.b.api)
        assert ":host-a," not in holders(site)
    else:
        assert "`holdover handover rollback db1 --alone`" in page
        site.b.kill()
        site.works("handover", "rollback", "db1", "--alone", "--at", site.a.api)
        assert ":host-b," not in holders(site)


def test_a_journal_that_is_damaged_and_lost(site: Site) -> None:
    folder, agent = site.rig.folder, site.process("host-a")
    site.text("host-a", f"{folder}/host-a.journal", f"{folder}/kept/journal")
    agent.send_signal(signal.SIGTERM)
    agent.wait(600)
    (folder / "kept").mkdir()
    for file in folder.glob("host-a.journal*"):
        shutil.copy(file, folder / "kept" / file.name.replace("host-a.journal", "journal"))
    backup = folder / "backup"
    shutil.copytree(folder / "kept", backup)
    journal = folder / "kept" / "journal"

    def systemctl(words: str) -> None:
        if words.startswith("start"):
            site.start("host-a")
        elif site.process("host-a").poll() is None:
            site.process("host-a").send_signal(signal.SIGTERM)
            site.process("host-a").wait(600)

    names = {
        "/var/lib/holdover": str(folder / "kept"),
        "/backup/holdover": str(backup),
        "/dev/disk/by-id/scsi-36001405aaaaa": site.target.url(),
    }
    typist = Typist(folder, names, {"HOLDOVER_API": site.a.api}, systemctl)
    journal.write_bytes(journal.read_bytes()[:2048] + b"\xff" * 4096)
    for line in lines_of("how-to/lost-journal.md", "1. See what is wrong"):
        if not line.startswith("journalctl"):
            typist.line(line, fails=True)
    typist.type("how-to/lost-journal.md", "2. Put a good copy back, if you have one")
    assert KEY in site.works("status", "--api", site.a.api)
    migrations, handover, *rest = lines_of("how-to/lost-journal.md", "3. Or start without a journal")
    typist.line(migrations)
    typist.line(handover, fails=True)  # there was none
    for line in rest:
        typist.line(line)
    assert KEY in site.works("status", "--api", site.a.api)
    assert ":host-a," in holders(site)


def test_what_pacemaker_runs_when_it_has_fenced_a_host(site: Site) -> None:
    """Pacemaker itself is not run: its alert agent gets the variables that Pacemaker sets."""
    (script,) = (
        text for _, text in BLOCK.findall((DOCS / "how-to/dead-host.md").read_text()) if text.startswith("#!")
    )
    alert = site.rig.folder / "holdover-fenced"
    alert.write_text(script)
    alert.chmod(0o755)
    site.a.kill()
    fenced = "CRM_alert_kind=fencing CRM_alert_node=host-a CRM_alert_rc="
    typist = Typist(site.rig.folder, {}, {"HOLDOVER_API": site.b.api})
    typist.line(f"{fenced}1 ./holdover-fenced")
    assert "fenced by Pacemaker" not in typist.line("holdover host list")
    typist.line(f"{fenced}0 ./holdover-fenced")
    assert "fenced by Pacemaker" in typist.line("holdover host list")
    typist.line("holdover guest start db1")
    assert ":host-b," in holders(site)


def test_disks_that_come_and_go(rig: Rig) -> None:
    target = rig.target(luns=2)
    agent = real_agents(rig, "db1", [target.url(0)])["host-a"]
    agent.start()
    names = {"iscsi://192.0.2.10/iqn.2026-11.org.example:san/1": target.url(1)}
    typist = Typist(rig.folder, names, {"HOLDOVER_API": agent.api})
    attach, detach = lines_of("how-to/exports.md", "Disks that come and go")
    typist.line(attach)
    assert "lun=1" in typist.line("holdover guest secret db1")
    typist.line(f"holdover pr register {agent.url(1)} --new-key {KEY}")
    assert "--release" in typist.line(detach, fails=True)
    typist.line(f"holdover pr register {agent.url(1)} --key {KEY} --new-key 0")
    typist.line(detach)
    assert "lun=1" not in typist.line("holdover guest secret db1")
    assert "--release" in (DOCS / "how-to/exports.md").read_text()


def test_certificates(tmp_path: Path) -> None:
    typist = Typist(tmp_path, {}, {})
    for line in lines_of("how-to/certificates.md", "A small authority"):
        typist.line(line)
    assert {each.name for each in (tmp_path / "ca").iterdir()} >= {"ca.crt", "host-a.key", "admin-1.crt"}


def test_the_history(site: Site) -> None:
    typist = Typist(
        site.rig.folder, {"naa.600140500000000000000000000000aa": "naa.1"}, {"HOLDOVER_API": site.a.api}
    )
    typist.type("how-to/history.md")
    assert any("db1" in said for said in typist.said.values())


MACHINE = "-name db1 -machine pc -accel tcg -m 64 -nodefaults -display none"
"""What the page leaves out of QEMU's command line."""
WITHIN = (
    ("127.0.0.1:3261", "127.0.0.1:3262"),
    ("a/secrets", "b/secrets"),
    ("a.qmp", "b.qmp"),
    ("node-name=d0 ", "node-name=d0 -incoming tcp:127.0.0.1:4444 "),
)
"""What the page says of QEMU on the second host."""


@pytest.mark.peer("qemu-system-x86", "qemu-block-extra")
def test_to_try_it_by_hand(tmp_path: Path) -> None:
    """Agents, two QEMUs, and the migration of a guest with a reservation."""
    agents, qemu, migration = (block for _, block in BLOCK.findall((DOCS / "start/try-it.md").read_text()))
    assert migration.startswith(typed_in("how-to/handover.md", "`holdover migrate`"))
    first = qemu.replace("...", MACHINE).replace("\\\n", " ").strip()
    second = first
    for here, there in WITHIN:
        assert here in second
        second = second.replace(here, there)
    reserve = (
        "disk=iscsi://db1%$(cat a/secrets/db1.chap)@127.0.0.1:3261/iqn.2026-11.org.holdover:guest.db1/0\n"
        "holdover pr register $disk --new-key 0xdb1\nholdover pr reserve $disk --key 0xdb1 --type wero\n"
    )
    script = (
        f"{agents}until holdover status --api unix:$PWD/b.sock >&2 && holdover status >&2; do sleep 1; done\n"
        f"{reserve}{first} &\n{second} &\nuntil [ -S a.qmp ] && [ -S b.qmp ]; do sleep 1; done\n{migration}"
    )
    status, output = run(on_free_ports(script), tmp_path)
    assert status == 0, output
    assert "Guest db1 moved from host-a to host-b" in output
    assert [
        name for name in ("host-a", "host-b") if re.search(f"^0xdb1 +yes +wero .*:{name},", output, re.M)
    ] == ["host-b"]


def typed_in(page: str, heading: str) -> str:
    """The one block of commands in a section of a page."""
    text = (DOCS / page).read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    ((_, block),) = BLOCK.findall(text)
    return str(block)


def test_a_target_with_faults(tmp_path: Path) -> None:
    first, *others = lines_of("how-to/target.md")
    wait = "until holdover target-ctl san.sock status >&2; do sleep 0.2; done"
    started = first.replace("--iqn", f"--listen 127.0.0.1:{free_port()} --iqn")
    status, output = run("\n".join([f"{started} &", wait, *others]), tmp_path)
    assert status == 0, output
    assert "drop-connection" in output
