"""Topics about guests, their QEMUs and libvirt."""

from __future__ import annotations

from holdover.runbook.topic import Topic

GUESTS = (
    Topic(
        "runs-elsewhere",
        "A guest may not run here, or a request finds it on another host.",
        "A guest runs on the host whose nexus has its registration and its reservation. Its commands do not "
        "pass "
        "elsewhere, so that it cannot damage its disks.",
        (
            "`holdover status --api API` of each host says where the guest is (GATE running).",
            "To move it while it runs: `holdover migrate GUEST --to HOST` there. After it was shut down: "
            "`holdover guest start GUEST` on the host on which it shall start.",
            "If the other host is dead, fence it, then: `holdover guest start GUEST --without HOST`.",
        ),
        (
            r"must not run on",
            r"is not let run",
            r"does not come from",
            r"cannot leave",
            r"guest .* (runs|is) on ",
            r"does not run (on|here)",
            r"runs on this host already",
            r"announced; its reservations are not here",
            r"has not told the agent there that guest",
            r"both say that guest",
        ),
    ),
    Topic(
        "dead-host",
        "A host is declared dead, or it comes back after that.",
        "An operator has said that a host is dead and fenced, so its guests may be taken. The host that "
        "comes back "
        "learns of it and keeps its guests shut, so that no guest runs twice.",
        (
            "`holdover host list` shows which hosts are declared dead.",
            "On another host: `holdover guest start GUEST` takes what a guest has left.",
            "When the host is whole again: `holdover host declare-alive HOST`.",
        ),
        (
            r"declared (dead|alive)",
            r"taken from a dead host",
            r"is not taken",
            r"exports and sockets cannot be opened",
        ),
    ),
    Topic(
        "left-registrations",
        "A guest is not released or forgotten, since it has registrations, or may have.",
        "The registrations and the reservation of a guest stay on its LUNs when the guest ends. Whoever "
        "forgets the "
        "guest must say whether they go.",
        (
            "To remove them: `holdover guest release GUEST`. You may repeat it: it continues where it was.",
            "To keep them: `holdover guest start GUEST` on the host on which the guest starts next.",
        ),
        (
            r"has registrations by",
            r"is not released",
            r"guest was released",
            r"registration is still there",
            r"has left on its LUNs is not known",
            r"is in the agent's file on",
        ),
    ),
    Topic(
        "disk-stays",
        "A disk is not attached to the export of a guest, or not detached from it.",
        "A handover moves the disks that it has found at its beginning, and a registration stays on a LUN "
        "when the disk goes. So the agent changes no disks while the guest moves, and leaves no "
        "registration behind.",
        (
            "If the guest moves: `holdover handover status GUEST`, and try again when the handover is over.",
            "If the guest is registered on the disk: have the guest release and unregister, or `holdover "
            "guest detach-disk GUEST LUN --release`.",
            "If the number is in use: `holdover guest show GUEST` shows the LUN numbers.",
            "If the record cannot be read, or the agent's file has another disk there: do what the "
            "message says.",
        ),
        (
            r"stay as they are: ",
            r"LUN .* is in use by",
            r"device id .* is in use; give",
            r"its export has no LUN",
            r"this is its only one",
            r"it has no export there",
            r"is not within 0 to",
            r"at LUN .* already",
            r"the guest is registered on",
            r"whether the guest has registrations on",
            r"commands to .* do not end",
            r"a handover or a migration of it is under way",
            r"is another disk in the agent's file",
            r"attached and detached disks cannot be read",
            r"disk was detached",
        ),
    ),
    Topic(
        "qemu-moves-itself",
        "A guest is shown as MOVED BY QEMU, and Holdover leaves it alone.",
        "Its QEMU is 11.0 or later, and `migrate-pr` is on: QEMU moves the reservations itself.",
        ("To let Holdover move them: start QEMU with `scsi-block,migrate-pr=off`.",),
        (r"moves its reservations itself",),
    ),
    Topic(
        "process-refused",
        "A QEMU process is refused at the helper's socket.",
        "Any process can call itself by a guest's name. The agent refuses a process whose user, cgroup or "
        "label is not "
        "the guest's, or that it cannot tell apart. What is tracked is kept.",
        (
            "Read the reason in the log or in `holdover status`. It names the `[[rule]]` that accepts the "
            "process.",
            "Give each QEMU a `-name` and a `-uuid` of its own, or a socket of its own (`helper` in its "
            "`[[guest]]`).",
        ),
        (
            r"process (?!\d+ has it open).* (has|is|cannot|:|\()",
            r"process at the other end",
            r"no longer (taken for )?a guest",
            r"guest name .* cannot be used",
            r"clients? (of the (helper|lock)|turned away|lost|broke|refused)",
            r"only libvirtd may ask",
        ),
    ),
    Topic(
        "machine-type",
        "It is not known whether a guest's machine type has `migrate-pr` on.",
        "Holdover does not know the name of the machine type, so it does not know QEMU's default.",
        (
            "Add a `[[rule]]` with `guest` and `migrate-pr` to the agent's file.",
            "`systemctl reload holdover-agent`.",
        ),
        (
            r"whether its machine type has migrate-pr on",
            r"version of QEMU that machine type .* stands for is not known",
        ),
    ),
    Topic(
        "monitor",
        "QEMU's monitor cannot be used, or QEMU refuses a command.",
        "The agent drives a migration by a QMP monitor that is for the agent alone. Without it nothing "
        "begins; during "
        "a migration the agent asks again, and never runs a guest on two hosts.",
        (
            "Check `[qmp] socket`, or `qmp` in the `[[guest]]`, and QEMU's `-qmp "
            "unix:PATH,server=on,wait=off`.",
            "On the destination QEMU must have been started with `-incoming defer`.",
            "`holdover migrations` says what is true of a migration that had begun.",
        ),
        (
            r"monitor",
            r"correct qmp in",
            r"correct qmp in",
            r"does not wait for a guest",
            r"answer to (query-|qom-list|\{\}|\w+ (that|is))",
            r"no answer to .* within",
            r"finds no port to listen",
            r"--tls:",
            r"could not load the guest",
            r"has the guest and does not run it",
            r"within .* s \(migration status",
            r"ended the migration as",
            r"has no guest to migrate",
            r"was told to end and has not ended",
            r"everything was sent",
            r"QEMU on .* is ",
            r"cannot be watched",
            r"process that looks at open disks",
        ),
    ),
    Topic(
        "libvirt-refused",
        "libvirt reports that the lock manager refuses a guest.",
        "The agent has answered no to libvirt's question whether a guest may run here: its reservations are "
        "not here, "
        "or the agent cannot find out.",
        (
            "If the error says that nobody answers: `systemctl start holdover-agent`, then try again.",
            "The error names the host. `holdover libvirt check GUEST` on both hosts finds what is not set "
            "up.",
            "`holdover handover status GUEST` says whether a handover is open, and the next command.",
        ),
        (
            r"libvirt may not run",
            r"libvirt has ended a QEMU",
            r"question of libvirt",
            r"lock_manager",
            r"the Holdover agent must say whether it may run",
            r"it is in doubt whether guest .* runs on",
            r"is not handed over from",
            r"libvirt no longer waits for the answer",
            r"libvirt's events cannot be had",
            r"after an event of a QEMU",
            r"runs that must not run here",
        ),
    ),
)
