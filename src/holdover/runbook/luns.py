"""Topics about LUNs and paths."""

from __future__ import annotations

from holdover.runbook.topic import Topic

LUNS = (
    Topic(
        "paths-away",
        "A path of a multipath device is away, or paths come and go.",
        "A registration by a path that is away can be neither changed nor removed now.",
        ("Bring all paths back: `multipath -ll`.", "Repeat the command."),
        (r"path of this host that is away|by a path that is away", r"come and go faster"),
    ),
    Topic(
        "two-addresses",
        "A guest's drives name one target by two addresses.",
        "A guest has one initiator port for each target name. A target that is reached by two addresses, or "
        "by a host name and an address, ends the session by the one address when the session by the other "
        "logs in, without end. The guest's commands wait meanwhile, and a handover may be refused. Two "
        "targets may have one name: then nothing is wrong.",
        (
            "`holdover doctor` names the drives with the two addresses, as the agent's file has them: "
            "`addresses`. When sessions have ended one another, `holdover status` names the two addresses.",
            "`holdover pr status DRIVE` for a drive by each address: if the list of initiators is one list, "
            "or you know that it is one SAN, the addresses lead to one target.",
            "Write all drives of the guest on that target with one address in the agent's file.",
            "`systemctl restart holdover-agent`: the guest keeps what it holds. For a guest with an export "
            "that is registered on none of these LUNs, `systemctl reload holdover-agent` is enough.",
            "`holdover doctor` shows `addresses` as ok.",
        ),
        (r"two addresses", r"ends a session of a guest whenever"),
    ),
    Topic(
        "lun-not-here",
        "This host has no disk of a LUN, has it several times, or reaches it by another nexus.",
        "The agent must send the reservation commands by the same I_T nexus as the guest's data.",
        (
            "Look for the LUN: `ls -l /dev/disk/by-id`, `multipath -ll`.",
            "If this host has several disks of the LUN, without multipath: start the guest's QEMU first, "
            "or name the disk as `drive=` in "
            "the agent's file.",
            "Then start the guest again.",
        ),
        (
            r"has no disk of LUN",
            r"this host has LUN .* as",
            r"the agent reaches it by",
            r"they are the same LUN through different",
            r"another LUN than before",
            r"no (usable )?device\b",
        ),
    ),
    Topic(
        "lun-refuses",
        "A LUN gives no answer, or an answer other than GOOD.",
        "The LUN, the path or the SAN has a fault, or the LUN does not implement the command. An agent "
        "tries again by "
        "itself while a handover is open.",
        (
            "Ask the LUN yourself from this host: `holdover pr status LUN`, `holdover pr capabilities LUN`.",
            "Repair the path or the SAN. `holdover handover status GUEST` then shows how the handover "
            "continues.",
        ),
        (
            r"the LUN answers",
            r"no answer from the LUN",
            r"^no answer",
            r"LUN did not answer",
            r"LUN does not answer",
            r"incomplete list",
            r"names itself by no",
            r"registrations changed between",
            r"cannot be asked yet",
            r"could not read from the LUN",
            r"no more threads",
            r"LUN is not free yet",
            r"RESERVATION CONFLICT",
            r"CHECK CONDITION",
            r"(target|portal) .*cannot connect",
        ),
    ),
)
