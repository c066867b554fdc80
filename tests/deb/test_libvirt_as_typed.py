"""The page "Guests of libvirt", typed from two hosts with libvirt to a moved reservation.

Both hosts are fresh Debians with libvirt, QEMU and the package, whose services are those of systemd.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.deb.test_package import SAN, must
from tests.docs.typist import DOCS, Typist, lines_of
from tests.rig.debian_root import debian_root
from tests.rig.hosts import SeparateHost, SeparateHosts, separate_hosts, until
from tests.rig.package import build_packages

pytestmark = [pytest.mark.long, pytest.mark.peer("systemd-container"), pytest.mark.xdist_group("deb")]

PAGE, SECTION = "how-to/libvirt.md", "From two hosts with libvirt to a moved reservation"
HOSTS = ("a", "b")
GUEST, KEY = "db1", "0xdb1"
DOMAIN = f"""
<domain type='qemu'>
  <name>{GUEST}</name>
  <memory unit='MiB'>16</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <cpu mode='custom' match='exact'><model fallback='allow'>qemu64</model></cpu>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='scsi' model='virtio-scsi'/>
    <controller type='usb' model='none'/>
    <disk type='network' device='lun'>
      <driver name='qemu' type='raw' cache='none'/>
      <source protocol='iscsi' name='TARGET/0'>
        <host name='ADDRESS' port='PORT'/>
        AUTH
      </source>
      <target dev='sda' bus='scsi'/>
    </disk>
    <memballoon model='none'/>
  </devices>
</domain>
"""
_LIBVIRTD = 'host_uuid = "{uuid}"\nauth_tcp = "none"\n'
_QEMU = 'security_driver = "none"\nnamespaces = [ ]\ncgroup_controllers = [ ]\n'
"""What libvirt needs in a container, whatever locks the guests."""


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeparateHosts]:
    """Two hosts with libvirt that can migrate guests to one another, and the package installed."""
    (package,) = build_packages(tmp_path_factory.mktemp("deb"), "1")
    folder, debian = tmp_path_factory.mktemp("hosts"), debian_root()
    with separate_hosts(folder, "san", *HOSTS, roots=dict.fromkeys(HOSTS, debian)) as made:
        san = made["san"]
        arguments = ["--iqn", "iqn.2026-11.org.example:san", "--lun", "file=/var/lib/holdover/lun0,size=16M"]
        san.start("target", "--listen", f"{san.address}:3260", *arguments)
        until(lambda: san.listens(f"{san.address}:3260"), "the SAN does not listen")
        for name in HOSTS:
            host = made[name]
            own = uuid.uuid5(uuid.NAMESPACE_DNS, name)
            for file, text in (("libvirtd.conf", _LIBVIRTD.format(uuid=own)), ("qemu.conf", _QEMU)):
                with host.inside(f"/etc/libvirt/{file}").open("a") as config:
                    config.write(text)
            must(host, "systemctl", "stop", "libvirtd.service")
            must(host, "systemctl", "enable", "--now", "libvirtd-tcp.socket")
            must(host, "virsh", "-c", "qemu:///system", "list")
            host.inside(f"/root/{package.name}").write_bytes(package.read_bytes())
            must(host, "dpkg", "-i", f"/root/{package.name}")
        yield made


def agent_file(name: str) -> str:
    """The file of the page for host a; for b with what the page says of b."""
    text = (DOCS / PAGE).read_text().partition("This is the file of `a`")[2]
    found = re.search(r"^```toml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    if name == "a":
        return found[1]
    other = {"a": "b", "b": "a"}
    swapped = re.sub(r'(?<=[":/])([ab])(?=[":.])', lambda each: other[each[1]], found[1])
    return swapped.replace('name = "db1"', 'name = "db1"\nincoming = true')


def test_the_file_of_host_b() -> None:
    assert 'name = "b"\ninitiator = "iqn.2026-11.org.example:b"' in agent_file("b")
    assert 'name = "a"\napi = "a:7411"' in agent_file("b")
    assert "/etc/holdover/b.key" in agent_file("b")


def tell_libvirt(host: SeparateHost, said: str) -> str:
    """Do what `holdover guest secret` prints for libvirt; the disk's XML."""
    secret = re.search(r"(<secret ephemeral.*</secret>)", said)
    login = re.search(r"(<auth username=.*</auth>)", said)
    commands = re.search(r"virsh secret-define FILE; (virsh secret-set-value .*) UUID", said)
    place = re.search(r"portal=([\d.]+):(\d+),target=([^,]+)", said)
    assert secret is not None
    assert login is not None
    assert commands is not None
    assert place is not None
    host.inside("/root/secret.xml").write_text(secret[1])
    defined = must(host, "virsh", "secret-define", "/root/secret.xml")
    number = re.search(r"[0-9a-f]{8}-[0-9a-f-]{27}", defined)
    assert number is not None
    must(host, *commands[1].split(), number[0])
    return (
        DOMAIN.replace("TARGET", place[3])
        .replace("ADDRESS", place[1])
        .replace("PORT", place[2])
        .replace("AUTH", login[1])
    )


def follow(host: SeparateHost, said: str) -> None:
    """Type each command that `holdover libvirt setup` or `undo` has printed."""
    commands = [line.strip().partition(" (")[0] for line in said.splitlines() if " systemctl " in f" {line}"]
    assert commands
    for command in commands:
        must(host, "sh", "-c", command)


def agent_answers(host: SeparateHost) -> None:
    until(lambda: host.holdover("status").returncode == 0, f"{host.name}: no agent answers")


def holder(hosts: SeparateHosts) -> dict[str, bool]:
    status = json.loads(must(hosts["a"], "holdover", "pr", "status", SAN, "--json"))
    return {each["initiator"].partition(",")[0]: each["holder"] for each in status["registrants"]}


def test_the_page_leads_to_a_moved_reservation(hosts: SeparateHosts) -> None:
    operators = {name: Typist(Path("/root"), {}, {}, None, hosts[name]) for name in HOSTS}
    authority, enable, secret, dry_run, setup, check, start, migrate, status, *_ = lines_of(PAGE, SECTION)
    operators["a"].line(authority)
    for name in HOSTS:
        for file in ("ca.crt", f"{name}.crt", f"{name}.key"):
            copy = hosts[name].etc / file
            copy.write_bytes(hosts["a"].inside(f"/root/ca/{file}").read_bytes())
            copy.chmod(0o600)
        (hosts[name].etc / "agent.toml").write_text(agent_file(name))
    for name in HOSTS:
        operator, host = operators[name], hosts[name]
        operator.line(enable)
        agent_answers(host)
        domain = tell_libvirt(host, operator.line(secret))
        ElementTree.fromstring(domain)  # noqa: S314 - it is the test's own
        if name == "a":
            host.inside("/root/db1.xml").write_text(domain)
            must(host, "virsh", "define", "/root/db1.xml")
        before = host.inside("/etc/libvirt/qemu.conf").read_text()
        operator.line(dry_run)
        assert host.inside("/etc/libvirt/qemu.conf").read_text() == before
        follow(host, operator.line(setup))
        agent_answers(host)
        checked = operator.line(check if name == "a" else check.replace(GUEST, "", 1))
        assert "ok" in checked

    operators["a"].line(start)
    chap = must(hosts["a"], "cat", f"/var/lib/holdover/secrets/{GUEST}.chap").strip()
    disk = f"iscsi://{GUEST}%{chap}@127.0.0.1:3261/iqn.2026-11.org.holdover:guest.{GUEST}/0"
    must(hosts["a"], "holdover", "pr", "register", disk, "--new-key", KEY)
    must(hosts["a"], "holdover", "pr", "reserve", disk, "--key", KEY, "--type", "wero")
    assert holder(hosts) == {"iqn.2026-11.org.example:a": True}

    operators["a"].line(migrate)
    assert "departed" in operators["a"].line(status)
    assert KEY in operators["b"].line(status)
    assert holder(hosts) == {"iqn.2026-11.org.example:b": True}
    assert GUEST in must(hosts["b"], "virsh", "list", "--name")

    operators["b"].line(migrate.replace("//b/", "//a/"))
    assert holder(hosts) == {"iqn.2026-11.org.example:a": True}
    must(hosts["a"], "virsh", "destroy", GUEST)
    follow(hosts["b"], operators["b"].line("holdover libvirt undo"))
    assert "lockd" not in re.findall(
        r"^lock_manager.*", hosts["b"].inside("/etc/libvirt/qemu.conf").read_text(), re.MULTILINE
    )


def test_the_xml_of_a_domain_with_a_disk_of_the_host(hosts: SeparateHosts) -> None:
    """No host here has a SCSI disk; `tests/peers/test_kernel_libvirt.py` migrates such a domain."""
    *_, xml, define = lines_of(PAGE, SECTION)
    host = hosts["a"]
    with (host.etc / "agent.toml").open("a") as config:
        config.write('[helper]\nsocket = "/run/holdover/pr-helper.sock"\n')
    host.run("virsh", "undefine", GUEST)
    disk = (
        r"<disk type='block' device='lun'>\1<source dev='/dev/disk/by-id/wwn-0x600140500000000a'/>\2</disk>"
    )
    network = r"<disk type='network' device='lun'>(.*)<source.*</source>(.*)</disk>"
    host.inside("/root/block.xml").write_text(re.sub(network, disk, DOMAIN, flags=re.DOTALL))
    must(host, "virsh", "define", "/root/block.xml")
    operator = Typist(Path("/root"), {}, {}, None, host)
    operator.line(xml)
    operator.line(define)
    defined = must(host, "virsh", "dumpxml", GUEST)
    assert "<reservations managed='no'>" in defined
    assert "path='/run/holdover/pr-helper.sock'" in defined
