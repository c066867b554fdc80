"""Which files to change so that libvirt asks the agent, and what speaks against it. It writes nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

QEMU_CONF = "/etc/libvirt/qemu.conf"
QEMU_LOCKD_CONF = "/etc/libvirt/qemu-lockd.conf"
SOCKET_DROP_IN = "/etc/systemd/system/virtlockd.socket.d/holdover.conf"
AGENT_FILE = "/etc/holdover/agent.toml"
APPARMOR = "/etc/apparmor.d/abstractions/libvirt-qemu"
APPARMOR_LOCAL = "/etc/apparmor.d/local/abstractions/libvirt-qemu"
SELINUX = "/etc/selinux/config"
SELINUX_MODULE = "/etc/holdover/holdover-libvirt.cil"
FILES = (
    QEMU_CONF,
    QEMU_LOCKD_CONF,
    SOCKET_DROP_IN,
    AGENT_FILE,
    APPARMOR,
    APPARMOR_LOCAL,
    SELINUX,
    SELINUX_MODULE,
)
"""The files that a plan reads."""

LOCK_SOCKET = "/run/libvirt/virtlockd-sock"
AGENT_SOCKET = "/run/holdover/lock.sock"
_MANAGER = re.compile(r'^[ \t]*lock_manager[ \t]*=[ \t]*"([^"]*)"[ \t]*(?:#.*)?$', re.MULTILINE)
_LEASES = re.compile(r'^[ \t]*(file|scsi|lvm)_lockspace_dir[ \t]*=[ \t]*"([^"]*)"', re.MULTILINE)
_LIBVIRT_SECTION = re.compile(r"^\[libvirt\][ \t]*(?:#.*)?$", re.MULTILINE)
_MANAGER_LINE = 'lock_manager = "lockd"'
_SOCKET_TEXT = """# Holdover's lock server answers libvirt in place of virtlockd.
# libvirtd requires this unit, so it listens elsewhere.
[Socket]
ListenStream=
ListenStream=/run/libvirt/virtlockd-unused-sock
"""
_APPARMOR_RULE = "/{,var/}run/holdover/*.sock rw,"
_SELINUX_OFF = re.compile(r"^[ \t]*SELINUX[ \t]*=[ \t]*disabled", re.MULTILINE)
_SELINUX_TEXT = """; A QEMU of libvirt may use the sockets in /run/holdover, and libvirt the lock server's.
(typeattributeset cil_gen_require svirt_t)
(typeattributeset cil_gen_require virtd_t)
(typeattributeset cil_gen_require var_run_t)
(typeattributeset cil_gen_require unconfined_service_t)
(allow svirt_t var_run_t (sock_file (getattr write)))
(allow svirt_t unconfined_service_t (unix_stream_socket (connectto)))
(allow virtd_t unconfined_service_t (unix_stream_socket (connectto)))
"""
_SECTION = f"""
[libvirt]
lock_socket = "{AGENT_SOCKET}"
"""
_COMMANDS: tuple[str, ...] = (
    "systemctl daemon-reload",
    "systemctl stop virtlockd.service virtlockd.socket",
    "systemctl restart holdover-agent.service",
    "systemctl enable --now holdover-lock-server.socket",
    "systemctl start virtlockd.socket",
    "systemctl restart libvirtd.service (virtqemud.service, where libvirt is modular)",
)
_UNDO_COMMANDS: tuple[str, ...] = (
    "systemctl daemon-reload",
    "systemctl disable --now holdover-lock-server.socket holdover-lock-server.service",
    "systemctl restart holdover-agent.service",
    "systemctl restart virtlockd.socket",
    "systemctl restart libvirtd.service (virtqemud.service, where libvirt is modular)",
)


@dataclass(frozen=True, slots=True)
class FileChange:
    """A file to write: its present content, None if there is no such file, and its new content.

    ``after`` is None if the file must be removed.
    """

    path: str
    before: str | None
    after: str | None
    why: str


@dataclass(frozen=True, slots=True)
class SetupPlan:
    """What to change; if ``refusals`` has anything, nothing must be changed.

    ``commands`` is what to do after the files have been changed; guests go on running.
    """

    changes: tuple[FileChange, ...]
    refusals: tuple[str, ...]
    commands: tuple[str, ...] = ()


def plan_setup(files: Mapping[str, str | None]) -> SetupPlan:
    """The plan for a host whose `FILES` have these contents; None: there is no such file."""
    refusals = tuple(_refusals(files))
    wanted = {
        QEMU_CONF: (
            _with_manager(files.get(QEMU_CONF) or ""),
            "libvirt asks a lock manager before a guest runs",
        ),
        SOCKET_DROP_IN: (_SOCKET_TEXT, "virtlockd leaves its socket to the agent"),
        AGENT_FILE: (_with_section(files.get(AGENT_FILE) or ""), "the agent answers the lock server"),
    }
    commands = _COMMANDS
    if files.get(APPARMOR) is not None:
        local = _with_line(files.get(APPARMOR_LOCAL) or "", _APPARMOR_RULE)
        wanted[APPARMOR_LOCAL] = local, "AppArmor lets QEMU use the agent's helper socket"
    if _has_selinux(files.get(SELINUX)):
        wanted[SELINUX_MODULE] = _SELINUX_TEXT, "SELinux lets QEMU and libvirt use the sockets"
        commands = (f"semodule -i {SELINUX_MODULE}", *commands)
    changes = tuple(
        FileChange(path, files.get(path), after, why)
        for path, (after, why) in wanted.items()
        if files.get(path) != after
    )
    return SetupPlan(changes, refusals, commands)


def lock_manager(qemu_conf: str) -> str:
    """The lock manager that libvirt's qemu.conf names; empty if none."""
    found = _MANAGER.findall(qemu_conf)
    return str(found[-1]) if found else ""


def _refusals(files: Mapping[str, str | None]) -> list[str]:
    found = []
    conf = files.get(QEMU_CONF)
    if conf is None:
        found.append(f"{QEMU_CONF} is not there: install libvirt's QEMU driver (libvirt-daemon-system) first")
    manager = lock_manager(conf or "")
    ours = files.get(SOCKET_DROP_IN) is not None
    if manager and manager != "lockd":
        found.append(
            f'{QEMU_CONF} has lock_manager = "{manager}": libvirt has one lock manager, so {manager} and the '
            "agent cannot be combined; oVirt, for one, needs sanlock"
        )
    elif manager and not ours:
        found.append(
            f"{QEMU_CONF} has {_MANAGER_LINE}: virtlockd's own locks are in use here, and the agent would "
            "take their place; remove that line first if you do not need them"
        )
    for kind, folder in _LEASES.findall(files.get(QEMU_LOCKD_CONF) or ""):
        found.append(
            f'{QEMU_LOCKD_CONF} has {kind}_lockspace_dir = "{folder}": virtlockd\'s own locks are in use '
            "here; remove that line first if you do not need them"
        )
    if files.get(AGENT_FILE) is None:
        found.append(f"{AGENT_FILE} is not there: set up the agent first (docs/how-to/service.md)")
    return found


def _with_manager(conf: str) -> str:
    if lock_manager(conf) == "lockd":
        return conf
    return _with_line(conf, _MANAGER_LINE)


def _with_line(text: str, line: str) -> str:
    if line in text.splitlines():
        return text
    ending = "" if not text or text.endswith("\n") else "\n"
    return f"{text}{ending}{line}\n"


def _has_selinux(config: str | None) -> bool:
    return config is not None and _SELINUX_OFF.search(config) is None


def _with_section(agent: str) -> str:
    if _LIBVIRT_SECTION.search(agent):
        return agent
    ending = "" if not agent or agent.endswith("\n") else "\n"
    return f"{agent}{ending}{_SECTION}"


def plan_undo(changed: tuple[FileChange, ...], files: Mapping[str, str | None]) -> SetupPlan:
    """How to put back what was there before ``changed``.

    A file that somebody has edited since is left alone, and is a refusal.
    """
    refusals = tuple(
        f"{each.path} was edited since the set-up; remove by hand what the set-up wrote there: {each.why}"
        for each in changed
        if files.get(each.path) not in (each.after, each.before)
    )
    changes = tuple(
        FileChange(each.path, each.after, each.before, each.why)
        for each in changed
        if files.get(each.path) == each.after
    )
    commands = _UNDO_COMMANDS
    if any(each.path == SELINUX_MODULE for each in changes):
        commands = ("semodule -r holdover-libvirt", *commands)
    return SetupPlan(changes, refusals, commands)
