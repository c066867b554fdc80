"""What `holdover libvirt check` looks at, on this host and in a domain's XML. It changes nothing."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from holdover.config.agent_file import DEFAULT_STATE_DIR
from holdover.helper.connection import credentials_of
from holdover.libvirt.connection import LockClient, LockProtocolError, LockReply
from holdover.libvirt.lock_protocol import CreateLockspace
from holdover.libvirt.setup_plan import AGENT_SOCKET, LOCK_SOCKET, QEMU_CONF, lock_manager
from holdover.lock_server.tracked_list import FILE_NAME, read_list

_SECONDS = 10.0
_PLUGINS = ("/usr/lib/*/libvirt/lock-driver/lockd.so", "/usr/lib64/libvirt/lock-driver/lockd.so")


@dataclass(frozen=True, slots=True)
class Check:
    """One check: whether it has passed, and what was found."""

    works: bool
    text: str


def host_checks() -> Iterator[Check]:
    """What matters on this host, whatever the domain."""
    yield _manager_check(Path(QEMU_CONF))
    plugins = [found for pattern in _PLUGINS for found in Path("/").glob(pattern.lstrip("/"))]
    yield Check(
        bool(plugins),
        f"libvirt's plugin for the lock daemon is {plugins[0]}"
        if plugins
        else "libvirt's plugin for the lock daemon is missing; install libvirt-daemon-plugin-lockd",
    )
    yield _socket_check(
        Path(LOCK_SOCKET), "the lock server", "systemctl enable --now holdover-lock-server.socket"
    )
    yield _socket_check(Path(AGENT_SOCKET), "the agent", "is it running, with [libvirt] in its file?")
    yield _list_check(Path(DEFAULT_STATE_DIR) / FILE_NAME)


def _manager_check(conf: Path) -> Check:
    try:
        manager = lock_manager(conf.read_text(encoding="utf-8", errors="replace"))
    except OSError as error:
        return Check(False, f"{conf}: {error.strerror}")
    if manager == "lockd":
        return Check(True, f'{conf} has lock_manager = "lockd"')
    return Check(False, f'{conf} has lock_manager = "{manager}", not "lockd"; run holdover libvirt setup')


def _list_check(file: Path) -> Check:
    if read_list(file) is None:
        return Check(
            False, f"{file}: there is no list of tracked guests, or it cannot be read; start the agent"
        )
    return Check(True, f"{file} has the guests about which the lock server asks the agent")


def _socket_check(path: Path, who: str, fix: str) -> Check:
    """Whether something answers at a lock socket, as libvirt would ask."""
    client = LockClient()
    try:
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(_SECONDS)
            asking.connect(str(path))
            pid, _, _ = credentials_of(asking)
            if b"virtlockd" in _command_line(pid):
                return Check(False, f"virtlockd listens at {path}; run holdover libvirt setup")
            asking.sendall(client.call(CreateLockspace("")))
            replies: list[LockReply] = []
            while not replies:
                data = asking.recv(65536)
                if not data:
                    return Check(
                        False,
                        f"{path}: the process that listens there does not answer this user; run this as root",
                    )
                replies = client.receive(data)
    except OSError as error:
        text = error.strerror or str(error)
        return Check(False, f"{path}: {text}: {who} does not answer; {fix}")
    except LockProtocolError as error:
        return Check(False, f"{path}: {error}")
    return Check(True, f"{who} answers at {path}")


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


class VirshError(Exception):
    """virsh does not show a domain; the message says why."""


def domain_xml(domain: str, *options: str) -> str:
    """The XML of a domain, as libvirt's own command shows it.

    Raises:
        VirshError: It does not.
    """
    command = ["virsh", "-c", "qemu:///system", "dumpxml", *options, "--domain", domain]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise VirshError(f"virsh cannot be asked about {domain}: {error}") from error
    if shown.returncode != 0:
        raise VirshError(shown.stderr.strip())
    return shown.stdout


def domain_checks(domain: str) -> list[Check]:
    """What matters in a domain."""
    try:
        return list(checks_of(domain_xml(domain)))
    except VirshError as error:
        return [Check(False, str(error))]


def checks_of(xml: str) -> Iterator[Check]:
    """What matters in the XML of a domain: of each SCSI disk, whether its reservations can move."""
    try:
        root = ElementTree.fromstring(xml)  # noqa: S314 - libvirt wrote it
    except ElementTree.ParseError as error:
        yield Check(False, f"the domain's XML cannot be read: {error}")
        return
    name = root.findtext("name") or "the domain"
    disks = [each for each in root.iter("disk") if each.get("device") == "lun"]
    if not disks:
        yield Check(
            False,
            f"{name} has no disk with device='lun': QEMU passes no reservation of its guest to a LUN, so "
            "there is none to move",
        )
    for disk in disks:
        yield _disk_check(name, disk)


def _disk_check(name: str, disk: ElementTree.Element) -> Check:
    target = disk.find("target")
    label = f"{name}, disk {'?' if target is None else target.get('dev')}"
    source = disk.find("source")
    if source is not None and source.get("protocol") == "iscsi":
        return Check(
            True, f"{label}: by iSCSI; its host must be the agent's export (holdover guest secret {name})"
        )
    reservations = None if source is None else source.find("reservations")
    if reservations is None:
        return Check(
            False,
            f"{label}: has no <reservations> in its <source>, so QEMU sends the guest's reservations to no "
            f"helper; {_fix(name)}",
        )
    if reservations.get("managed") == "yes":
        return Check(
            False,
            f"{label}: has <reservations managed='yes'>, so libvirt starts QEMU's helper; {_fix(name)}",
        )
    path = reservations.find("source")
    return Check(True, f"{label}: by the helper at {'?' if path is None else path.get('path')}")


def _fix(name: str) -> str:
    return (
        f"holdover libvirt xml {name} >{name}.xml prints its XML with the agent's helper; then "
        f"virsh define {name}.xml, and shut the guest down and start it"
    )
