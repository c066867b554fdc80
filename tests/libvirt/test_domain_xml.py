"""A domain's XML with the agent's helper."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from holdover.cli.libvirt.checks import checks_of
from holdover.libvirt.domain_xml import DomainXmlError, with_helper

SOCKET = "/run/holdover/pr-helper.sock"
DOMAIN = """<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>db1</name>
  <devices>
    <disk type='block' device='lun'>
      <driver name='qemu' type='raw'/>
      <source dev='/dev/sda' index='1'>{}</source>
      <target dev='sda' bus='scsi'/>
    </disk>
    <disk type='network' device='lun'><source protocol='iscsi' name='iqn/0'/><target dev='sdb'/></disk>
    <disk type='file' device='disk'><source file='/root.img'/><target dev='vda'/></disk>
  </devices>
  <qemu:commandline><qemu:arg value='-no-hpet'/></qemu:commandline>
</domain>
"""
MANAGED = "<reservations managed='yes'><source type='unix' path='/run/x.sock' mode='client'/></reservations>"
OTHER = "<reservations managed='no'><source type='unix' path='/run/other.sock' mode='client'/></reservations>"


@pytest.mark.parametrize("before", ["", "<reservations managed='yes'/>", MANAGED, OTHER])
def test_each_disk_of_the_host_gets_the_helper_and_nothing_else_changes(before: str) -> None:
    changed = with_helper(DOMAIN.format(before), SOCKET)
    ours = f"<reservations managed='no'><source type='unix' path='{SOCKET}' mode='client'/></reservations>"
    assert canonical(changed) == canonical(DOMAIN.format(ours))
    assert "<qemu:commandline>" in changed
    first, second = checks_of(changed)
    assert first.works
    assert SOCKET in first.text
    assert second.works


def canonical(xml: str) -> str:
    return ElementTree.canonicalize(xml, strip_text=True)


@pytest.mark.parametrize(
    ("xml", "says"),
    [
        ("<domain>", "cannot be read"),
        ("<domain><name>db1</name></domain>", "db1 has no disk of the host with device='lun'"),
        ("<domain><devices><disk type='block' device='lun'/></devices></domain>", "no disk of the host"),
    ],
)
def test_what_has_no_such_disk_is_refused(xml: str, says: str) -> None:
    with pytest.raises(DomainXmlError, match=says):
        with_helper(xml, SOCKET)
