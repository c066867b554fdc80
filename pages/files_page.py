"""The reference of the files: what Holdover keeps where, and who may read it."""

from __future__ import annotations

from dataclasses import dataclass

from holdover.cli.daemons.pr_helper import DEFAULT_PIDFILE, DEFAULT_SOCKET
from holdover.config.agent_file import DEFAULT_API, DEFAULT_STATE_DIR, ApiConfig, HelperConfig
from holdover.config.libvirt import DEFAULT_LOCK_SOCKET
from holdover.lock_server.tracked_list import FILE_NAME


@dataclass(frozen=True, slots=True)
class File:
    """A file, a folder or a socket of Holdover.

    Attributes:
        name: Its path, or its name in the folder that the heading names; GUEST stands for a guest's name.
        mode: The permission bits with which it is made, such as "0600".
        says: What is in it, and when it is there.
    """

    name: str
    mode: str
    says: str


STATE = (
    File(
        "journal",
        "0600",
        "[The journal](../how-to/journal.md): guests, devices, handovers, migrations. `[journal] file` names "
        "another path for it and for the three files that follow.",
    ),
    File(
        "journal-wal", "0600", "The newest transactions of the journal. The journal is not whole without it."
    ),
    File("journal-shm", "0600", "SQLite's index of `journal-wal`, while the agent runs. It is made anew."),
    File("journal.mark", "0600", "How far the journal has come, so that an old copy of it is noticed."),
    File(
        "history.db",
        "0600",
        "[The history](../how-to/history.md). It is made for the first entry. The next two belong to it.",
    ),
    File("history.db-wal", "0600", "The newest entries of the history, while the agent runs."),
    File("history.db-shm", "0600", "SQLite's index of `history.db-wal`, while the agent runs."),
    File("secrets", "0700", "The folder with the CHAP secrets of exports."),
    File("secrets/GUEST.chap", "0600", "The CHAP secret of a guest's export, for its QEMU."),
    File(
        "lock", "0600", "The lock that keeps a second agent out of this folder, with the id of the process."
    ),
    File(
        "disks.json",
        "0600",
        "The disks that an operator has attached to exports, or detached. It may contain passwords.",
    ),
    File("hosts.json", "0600", "The boot of this host, and the hosts that an operator has declared dead."),
    File("libvirt.json", "0600", "What the agent knows of libvirt's guests, once libvirt has asked it."),
    File(FILE_NAME, "0600", "The guests with reservations, for the lock server while no agent answers."),
    File("migration-tls", "0700", "Links by the names that QEMU expects, for `holdover migrate --tls`."),
)
"""What is in the folder `state-dir` of an agent."""

_SOCKETS = (
    File(
        DEFAULT_API.removeprefix("unix:"),
        ApiConfig().mode,
        "The API, for operators of this machine: `listen`, `mode` and `group` in `[api]`.",
    ),
    File(
        "`socket` in `[helper]`, `helper` in `[[guest]]`",
        HelperConfig().mode,
        "Where QEMU's `pr-manager-helper` connects: `mode` and `group` in `[helper]`.",
    ),
    File(DEFAULT_LOCK_SOCKET, "0600", "Where the lock server asks the agent: `lock_socket` in `[libvirt]`."),
    File(
        "/run/libvirt/virtlockd-sock", "0600", "Where libvirt asks the lock server: a socket unit of systemd."
    ),
    File(str(DEFAULT_SOCKET), "0660", "The helper without an agent: a socket unit of systemd."),
    File(str(DEFAULT_PIDFILE), "0644", "The process of `holdover pr-helper -d`."),
)
_YOURS = (
    File("agent.toml", "0644", "[The agent's file](configuration.md)."),
    File(
        "HOST.crt, ca.crt", "0644", "Certificates of this host and of the authority, as `[api]` names them."
    ),
    File(
        "HOST.key",
        "0600",
        "The key of this host's certificate. `holdover doctor` finds it if others can read it.",
    ),
    File(
        "`secret-file=` of a device",
        "0600",
        "The password for a target. The agent warns if others can read it.",
    ),
)
_PACKAGE = (
    File("/opt/holdover", "0755", "The program, in a virtual environment of its own."),
    File("/usr/bin/holdover", "0755", "The command."),
    File("/usr/lib/systemd/system/holdover-*", "0644", "The units."),
    File(
        "/usr/lib/sysusers.d/holdover.conf, /usr/lib/tmpfiles.d/holdover.conf", "0644", "Groups and folders."
    ),
    File("/etc/apparmor.d/holdover", "0644", "The profiles, in complain mode."),
    File(
        "/usr/share/doc/holdover",
        "0755",
        "This documentation, an example of the agent's file, and monitoring.",
    ),
    File("/usr/share/man/man1/holdover*", "0644", "The manual pages."),
)


def files_page() -> str:
    """The whole page."""
    return (
        "# Files\n\nWhat Holdover keeps where, made from the code (`make reference`).\n\n"
        f"## The agent's own: `state-dir`, `{DEFAULT_STATE_DIR}`\n\n"
        "The folder has mode 0700. Stop the agent before you copy it. Do not edit these files.\n\n"
        f"{_table(STATE)}\n## Sockets\n\n{_table(_SOCKETS)}"
        "\n## Yours: `/etc/holdover`\n\nThe package puts no file there, and removes none.\n\n"
        f"{_table(_YOURS)}\n## The package's\n\n{_table(_PACKAGE)}"
    )


def _table(files: tuple[File, ...]) -> str:
    rows = "".join(f"| {_code(each.name)} | {each.mode} | {each.says} |\n" for each in files)
    return f"| file | mode | what it is |\n| --- | --- | --- |\n{rows}"


def _code(name: str) -> str:
    return name if "`" in name else ", ".join(f"`{each}`" for each in name.split(", "))
