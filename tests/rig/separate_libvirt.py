"""libvirt on separate hosts: a libvirtd on each, whose lock manager is the agent there, and a domain.

Everything that moves the guest is virsh, as people type it. The domain's disk is the agent's export, by
QEMU's own iSCSI initiator, as `device='lun'`, so that QEMU has a real `scsi-block`.
"""

from __future__ import annotations

import signal
import subprocess
import uuid
from pathlib import Path

from holdover.agent.guests.chap_secrets import ChapSecrets
from holdover.demo.machines.image import GuestImage
from tests.rig.hosts import Program, until
from tests.rig.packages import needs
from tests.rig.separate_site import EXPORT, GUEST, GUEST_IQN, SAN_IQN, SeparateSite

LOCK_SOCKET = "/run/libvirt/virtlockd-sock"
AGENT_LOCK_SOCKET = "/run/holdover/lock.sock"
CONSOLE = f"/run/{GUEST}.console"
_UUID = "c7a5fdbd-edaf-9455-926a-d65c16db1809"
_CHAP = "9b1d6b5e-1c47-4e27-b0a5-7bd9a3d5b6a1"
_LIBVIRTD_CONF = """
host_uuid = "{uuid}"
auth_unix_ro = "none"
auth_unix_rw = "none"
auth_tcp = "none"
listen_tls = 0
listen_tcp = 1
"""
_QEMU_DAEMON = "virtqemud"
_BESIDE = ("virtsecretd", "virtproxyd")
"""The other daemons that a modular libvirt needs here: for secrets, and for connections by TCP."""
_QEMU_CONF = """
security_driver = "none"
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
namespaces = [ ]
cgroup_controllers = [ ]
stdio_handler = "file"
lock_manager = "{lock_manager}"
"""
_OWN_FOLDERS = """
set -eu
for each in /etc/libvirt /var/lib/libvirt /var/log/libvirt /var/cache/libvirt; do
  mkdir -p "$each"
  mount -t tmpfs tmpfs "$each"
done
mkdir -p /run/libvirt
"""
_MODULAR = "/run/modular"
"""Where a host has the daemons of a modular libvirt, inside of another Debian too."""
_INSIDE = "/run/debian/root"
"""Where a host has another Debian."""
_OTHER_ROOT = """
set -eu
mkdir -p {inside} /run/debian/upper /run/debian/work
mount -t overlay overlay -o lowerdir={root},upperdir=/run/debian/upper,workdir=/run/debian/work {inside}
var="/var/lib/libvirt /var/log/libvirt /var/cache/libvirt /var/lib/holdover"
for each in /proc /sys /dev /run /etc/hosts /etc/libvirt $var; do
  [ -d "$each" ] && mkdir -p "{inside}$each"
  mount --rbind "$each" "{inside}$each"
done
mount -t tmpfs tmpfs {inside}/tmp
"""
_SECRET_XML = f"""
<secret ephemeral='no' private='yes'>
  <uuid>{_CHAP}</uuid>
  <usage type='iscsi'><target>{GUEST}</target></usage>
</secret>
"""
_KERNEL = """
    <kernel>{kernel}</kernel>
    <initrd>{initrd}</initrd>
    <cmdline>console=ttyS0 quiet panic=-1 no_timer_check</cmdline>"""
_CONSOLE_XML = f"""
    <serial type='unix'><source mode='bind' path='{CONSOLE}'/></serial>"""
_DOMAIN = f"""
<domain type='qemu'>
  <name>{GUEST}</name>
  <uuid>{_UUID}</uuid>
  <memory unit='MiB'>{{memory}}</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type>{{kernel}}</os>
  <cpu mode='custom' match='exact'><model fallback='allow'>qemu64</model></cpu>
  {{events}}
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='scsi' model='virtio-scsi'/>
    <controller type='usb' model='none'/>
    {{disk}}{{console}}
    <memballoon model='none'/>
    <panic model='isa'/>
  </devices>
</domain>
"""
_DISK = """<disk type='{kind}' device='lun'>
      <driver name='qemu' type='raw' cache='none'/>
      <source {source}</source>
      <target dev='sda' bus='scsi'/>
    </disk>"""
EXPORT_DISK = _DISK.format(
    kind="network",
    source=f"""protocol='iscsi' name='{GUEST_IQN}/0'>
        <host name='{EXPORT.partition(":")[0]}' port='{EXPORT.partition(":")[2]}'/>
        <auth username='{GUEST}'><secret type='iscsi' usage='{GUEST}'/></auth>
      """,
)
"""The domain's disk by the agent's export."""
_STRAIGHT = "protocol='iscsi' name='{iqn}/0'><host name='{address}' port='3260'/>"
_HOST_DISK = "dev='{path}'><reservations managed='yes'/>"
_PLAIN = """
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>16</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <cpu mode='custom' match='exact'><model fallback='allow'>qemu64</model></cpu>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
  </devices>
</domain>
"""


PACKAGES = ("libvirt-daemon-system", "libvirt-clients", "qemu-system-x86", "qemu-block-extra")
"""The packages without which nothing here runs."""


def needs_libvirt() -> None:
    """Skip the test that calls this where libvirt or QEMU is missing, with the packages' names."""
    needs(*PACKAGES)


def straight_disk(address: str) -> str:
    """The domain's disk straight by the SAN's LUN, in XML."""
    return _DISK.format(kind="network", source=_STRAIGHT.format(iqn=SAN_IQN, address=address))


def host_disk(path: str) -> str:
    """The domain's disk as a disk of the host, whose reservations go to QEMU's own helper, in XML."""
    return _DISK.format(kind="block", source=_HOST_DISK.format(path=path))


class SeparateLibvirt:
    """A libvirtd on each host of a site.

    Attributes:
        daemons: By host: its libvirtd, or its virtqemud.
        agents_then: By host: its agent when its libvirtd was started, and what that had written by then.
        lock_servers: The lock servers by host.
    """

    def __init__(self, site: SeparateSite, root: Path | None = None, modular: Path | None = None) -> None:
        """``root``: a Debian whose libvirt and QEMU all hosts run, in place of this machine's. ``modular``: a
        folder with the daemons of a modular libvirt, which all hosts run in place of libvirtd."""
        self.site = site
        self._root = root
        self._modular = modular
        self._beside: dict[tuple[str, str], Program] = {}
        self.daemons: dict[str, Program] = {}
        self.agents_then: dict[str, tuple[Program, int]] = {}
        self.lock_servers: dict[str, Program] = {}

    def begin(self, lock_manager: str = "lockd") -> None:
        """Start libvirtd on all hosts; the domain is defined on the first."""
        for name in self.site.names:
            self.prepare(name, lock_manager)
            self.start_lock_server(name)
            self.start_daemon(name)
            self._define_secret(name)

    def prepare(self, name: str, lock_manager: str) -> None:
        """Give a host folders and a configuration of its own for libvirt."""
        host = self.site[name]
        made = host.run("sh", "-c", _OWN_FOLDERS)
        assert made.returncode == 0, made.stderr
        if self._modular is not None:
            made = host.run("cp", "-r", str(self._modular), _MODULAR)
            assert made.returncode == 0, made.stderr
        if self._root is not None:
            made = host.run("sh", "-c", _OTHER_ROOT.format(root=self._root, inside=_INSIDE))
            assert made.returncode == 0, made.stderr
        own = uuid.uuid5(uuid.NAMESPACE_DNS, name)
        for daemon in ("libvirtd", _QEMU_DAEMON, *_BESIDE):
            self._write(name, f"/etc/libvirt/{daemon}.conf", _LIBVIRTD_CONF.format(uuid=own))
        self._write(name, "/etc/libvirt/qemu.conf", _QEMU_CONF.format(lock_manager=lock_manager))

    def start_lock_server(self, name: str) -> None:
        """Start the lock server of a host, and wait until libvirt can ask."""
        server = self.lock_servers[name] = self.site[name].start("lock-server")
        until(lambda: not server.running or self.site[name].listens(LOCK_SOCKET), f"{name}: no lock server")
        assert server.running, server.output()

    def start_daemon(self, name: str) -> None:
        """Start libvirtd on a host, and wait until it answers."""
        agent = self.site.agents[name]
        self.agents_then[name] = agent, len(agent.output())
        command: tuple[str, ...] = ("libvirtd", "--listen")
        if self._modular is not None:
            command = (f"{_MODULAR}/{_QEMU_DAEMON}",)
            self._start_beside(name)
        daemon = self.daemons[name] = self.site[name].spawn(*self._entering, *command)
        until(
            lambda: not daemon.running or self.virsh(name, "version").returncode == 0,
            f"{name}: libvirtd does not answer",
        )
        assert daemon.running, daemon.output()

    def _start_beside(self, name: str) -> None:
        """Start the other daemons of a modular libvirt, unless they run."""
        for daemon in _BESIDE:
            before = self._beside.get((name, daemon))
            if before is None or not before.running:
                command = (*self._entering, f"{_MODULAR}/{daemon}")
                self._beside[name, daemon] = self.site[name].spawn(*command)

    def kill_daemons(self, name: str) -> None:
        """End libvirt's daemons on a host as by a crash of the host; guests go on."""
        self.daemons[name].send(signal.SIGKILL)
        for (host, _), daemon in self._beside.items():
            if host == name:
                daemon.send(signal.SIGKILL)

    def _define_secret(self, name: str) -> None:
        host = self.site[name]
        secret = ChapSecrets(host.var).file(GUEST)
        inside = f"/var/lib/holdover/{secret.relative_to(host.var)}"
        self._write(name, "/etc/libvirt/chap.xml", _SECRET_XML)
        self.must(name, "secret-define", "/etc/libvirt/chap.xml")
        self.must(name, "secret-set-value", _CHAP, "--file", inside, "--plain")

    def hears_events(self, name: str) -> bool:
        """Whether the agent of a host has subscribed to the events of the libvirtd that runs there now."""
        agent = self.site.agents[name]
        then, length = self.agents_then[name]
        return "hears libvirt's events" in agent.output()[length if agent is then else 0 :]

    def define(
        self,
        name: str,
        image: GuestImage | None = None,
        events: str = "<on_crash>destroy</on_crash>",
        *,
        disk: str = EXPORT_DISK,
    ) -> None:
        """Define the domain on a host; without an image its firmware alone runs. ``events`` says in XML what
        follows a crash or a reboot."""
        kernel = "" if image is None else _KERNEL.format(kernel=image.kernel, initrd=image.initrd)
        console = "" if image is None else _CONSOLE_XML
        domain = _DOMAIN.format(
            memory=96 if image else 16, kernel=kernel, console=console, events=events, disk=disk
        )
        self.define_xml(name, domain)

    def define_xml(self, name: str, xml: str) -> None:
        """Define the domain on a host by its XML."""
        self._write(name, f"/etc/libvirt/{GUEST}.xml", xml)
        self.must(name, "define", f"/etc/libvirt/{GUEST}.xml")

    def define_plain(self, name: str, domain: str) -> None:
        """Define another domain on a host, without disks."""
        self._write(name, f"/etc/libvirt/{domain}.xml", _PLAIN.format(name=domain))
        self.must(name, "define", f"/etc/libvirt/{domain}.xml")

    def _write(self, name: str, path: str, text: str) -> None:
        self.site[name].inside(path).write_text(text, encoding="utf-8")

    # -- what people type -----------------------------------------------------------------------------

    def virsh(self, name: str, *arguments: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """`virsh ARGUMENTS` on a host, to its end."""
        virsh = (*self._entering, "virsh", "-c", "qemu:///system")
        return self.site[name].run(*virsh, *arguments, timeout=timeout)

    @property
    def _entering(self) -> tuple[str, ...]:
        """The start of a command of libvirt on a host."""
        return () if self._root is None else ("chroot", _INSIDE)

    def must(self, name: str, *arguments: str) -> str:
        """`virsh ARGUMENTS` on a host; it has to succeed. Returns what it printed."""
        done = self.virsh(name, *arguments)
        assert done.returncode == 0, f"{name}: virsh {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def migrate(self, source: str, to: str, *options: str) -> subprocess.CompletedProcess[str]:
        """`virsh migrate --live db1 qemu+tcp://TO/system`."""
        return self.virsh(source, "migrate", "--live", GUEST, f"qemu+tcp://{to}/system", *options)

    def state(self, name: str) -> str:
        """The domain's state on a host, as libvirt there says; "none" where it is not defined."""
        done = self.virsh(name, "domstate", GUEST)
        return done.stdout.strip() if done.returncode == 0 else "none"

    def runs_on(self) -> list[str]:
        """The hosts on which libvirt says that the domain runs."""
        return [name for name in self.site.names if self.state(name) == "running"]

    def qemu_of(self, name: str) -> str:
        """The number of the domain's QEMU on a host, as a process there sees it; empty if there is none."""
        try:
            pid = self.site[name].inside(f"/run/libvirt/qemu/{GUEST}.pid").read_text(encoding="ascii")
        except FileNotFoundError:
            return ""
        return pid.strip() if self.site[name].run("kill", "-0", pid.strip()).returncode == 0 else ""

    def panic(self, name: str) -> None:
        """Write to the port of the domain's panic device, as a guest does that panics."""
        self.must(name, "qemu-monitor-command", GUEST, "--hmp", "o /b 0x505 1")

    def kill_qemu(self, name: str) -> None:
        """End the domain's QEMU on a host as by a crash."""
        pid = until(lambda: self.qemu_of(name), f"{name}: no QEMU")
        self.site[name].run("kill", "-9", pid)
