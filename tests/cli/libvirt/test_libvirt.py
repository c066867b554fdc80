"""`holdover libvirt setup`, `undo` and `check`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from holdover.cli.libvirt.checks import checks_of
from holdover.libvirt.setup_plan import QEMU_CONF, SOCKET_DROP_IN
from tests.rig.processes import Rig

DOMAIN = "<domain><name>db1</name><devices>{}</devices></domain>"
LUN = "<disk type='block' device='lun'><source dev='/dev/sda'>{}</source><target dev='sda'/></disk>"
AGENT = 'name = "a"\ninitiator = "iqn.2026-11.org.example:a"\n'
OWN = "<reservations managed='no'><source type='unix' path='/run/h.sock' mode='client'/></reservations>"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The files of a host with libvirt and an agent."""
    for path, text in (
        (QEMU_CONF, 'user = "root"\n'),
        ("/etc/holdover/agent.toml", AGENT),
    ):
        file = tmp_path / path.lstrip("/")
        file.parent.mkdir(parents=True)
        file.write_text(text)
    return tmp_path


def contents(root: Path) -> dict[Path, str]:
    return {each: each.read_text() for each in root.rglob("*") if each.is_file()}


def test_setup_changes_the_files_and_undo_puts_them_back(rig: Rig, root: Path) -> None:
    before = contents(root)
    dry = rig.holdover("libvirt", "setup", "--dry-run", "--root", str(root))
    assert dry.returncode == 0, dry.stderr
    assert '+lock_manager = "lockd"' in dry.stdout
    assert contents(root) == before
    made = rig.holdover("libvirt", "setup", "--root", str(root))
    assert made.returncode == 0, made.stderr
    assert "systemctl restart libvirtd.service" in made.stdout
    assert (root / SOCKET_DROP_IN.lstrip("/")).exists()
    again = rig.holdover("libvirt", "setup", "--root", str(root))
    assert (again.returncode, again.stdout) == (0, "nothing to change\n")
    undone = rig.holdover_json("libvirt", "undo", "--root", str(root))
    assert {each["path"] for each in undone} >= {QEMU_CONF, SOCKET_DROP_IN}
    assert contents(root) == before
    nothing = rig.holdover("libvirt", "undo", "--root", str(root))
    assert nothing.returncode == 1
    assert "nothing was set up" in nothing.stderr


def test_setup_refuses_beside_sanlock_and_changes_nothing(rig: Rig, root: Path) -> None:
    (root / QEMU_CONF.lstrip("/")).write_text('lock_manager = "sanlock"\n')
    before = contents(root)
    refused = rig.holdover("libvirt", "setup", "--root", str(root))
    assert refused.returncode == 1
    assert "sanlock" in refused.stderr
    assert contents(root) == before


def test_check_says_what_does_not_work(rig: Rig) -> None:
    checked = rig.holdover("libvirt", "check", "--json")
    assert checked.returncode == 1  # no libvirt asks an agent on this machine
    assert all(each["text"] for each in json.loads(checked.stdout))


@pytest.mark.parametrize(
    ("devices", "works", "says"),
    [
        ("<disk type='block' device='disk'/>", False, "device='lun'"),
        (LUN.format(""), False, "<reservations>"),
        (LUN.format("<reservations managed='yes'/>"), False, "managed='yes'"),
        (LUN.format(OWN), True, "/run/h.sock"),
        ("<disk device='lun'><source protocol='iscsi' name='iqn/0'/></disk>", True, "iSCSI"),
    ],
)
def test_check_looks_at_each_disk(devices: str, works: bool, says: str) -> None:
    (found,) = checks_of(DOMAIN.format(devices))
    assert found.works is works
    assert says in found.text
    (broken,) = checks_of("<domain>")
    assert not broken.works


def test_xml_refuses_where_the_agent_has_no_helper_for_all_guests(rig: Rig, root: Path) -> None:
    refused = rig.holdover("libvirt", "xml", "db1", "--config", str(root / "etc/holdover/agent.toml"))
    assert refused.returncode == 1
    assert refused.stdout == ""
    assert "[helper]" in refused.stderr
