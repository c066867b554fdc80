"""Topics about handovers and migrations."""

from __future__ import annotations

from holdover.runbook.topic import Topic

HANDOVERS = (
    Topic(
        "in-doubt",
        "A command ends with exit status 3, or a handover or migration is in doubt.",
        "An answer was lost after the reservations may have moved. Until an agent has asked the LUN, nobody "
        "knows "
        "on which host they are. The gate of the guest stays closed, so the guest does not write.",
        (
            "Start no second copy of the guest.",
            "Ask both agents: `holdover handover status GUEST --at API` says what is true and what comes "
            "next.",
            "If the LUN or the other agent cannot be reached, repair that. The handover then ends by itself.",
        ),
        (
            r"in doubt",
            r"is not known whether the (LUN carried|registration has changed|guest)",
            r"no answer came to repeated commands",
            r"then (rolling back|the migration could not be cancelled)",
            r"whether guest .* runs on .* is not known",
        ),
    ),
    Topic(
        "stale",
        "A handover is refused because what is tracked may be out of date.",
        "`--stale refuse` was given, and another initiator may have changed the LUN's reservations since "
        "the agent "
        "last asked. Nothing was changed.",
        (
            "See what the LUN says: `holdover pr status LUN`.",
            "If that is right, repeat the command with `--stale reread`, which is the default.",
        ),
        (r"--stale (refuse|reread)",),
    ),
    Topic(
        "third-node",
        "A handover, a roll back or a take is refused, because it might change another node's registration.",
        "Another node has the guest's key, or a registration or reservation is not the one that was "
        "prepared. "
        "Holdover never changes what may be a third party's. Nothing was changed by this step.",
        (
            "List the registrations: `holdover pr status LUN`. Compare each with the nodes of the guest's "
            "cluster.",
            "If the other host still lives, start its agent: it knows more, and the handover then "
            "continues by itself.",
            "If a registration is a left-over of the guest, remove it with `holdover pr preempt LUN`, then "
            "repeat.",
        ),
        (
            r"third (party|node)",
            r"(another|other) (node|host)\b.*(removed|registration|key)",
            r"registered by the other host",
            r"only this host is registered with key",
            r"is registered, and was not when",
            r"registration (was|is) gone",
            r"guest's last key: the prepare had not ended",
            r"registration is not there any more",
            r"may have changed that on the destination",
            r"It is not known whether it is the guest's",
            r"the reservation is not the one that was prepared",
            r"registration .*was not adopted",
            r"holds the reservation .*, which would be freed",
            r"guest changed its reservations while its commands were held",
        ),
    ),
    Topic(
        "one-nexus",
        "Both hosts, or two guests, are one I_T nexus to the LUN.",
        "The LUN cannot tell them apart, so a reservation cannot move from one to the other. Two hosts have "
        "the same "
        "initiator name, or use the same initiator port. Nothing was changed.",
        (
            "Compare `initiator` in both agents' files, and /etc/iscsi/initiatorname.iscsi on both hosts.",
            "Give each host a name of its own, then restart the agent there.",
        ),
        (r"one and the same nexus", r"both hosts are one (I_T )?nexus", r"compare InitiatorName"),
    ),
    Topic(
        "other-key",
        "This host's nexus is registered with a key that is not the guest's.",
        "Another guest on this host uses the LUN by the same nexus, or somebody registered a key without "
        "Holdover. "
        "A registration that is there is never overwritten. Nothing was changed.",
        (
            "Find whose key it is: `holdover status` lists the guests' keys, `holdover pr status LUN` the "
            "LUN's.",
            "If two guests of one host use the LUN: give each of them an export.",
            "If the key is a left-over: remove it with `holdover pr register LUN --key KEY --new-key 0`.",
        ),
        (
            r"registered (on the LUN )?with (another key|a key that is not)",
            r"is registered on the nexus",
            r"registered on LUN .* as .*, and has it now as",
        ),
    ),
    Topic(
        "handover-under-way",
        "A request is refused because a handover or a migration is under way, or is over.",
        "A guest has one handover at a time, and a request that comes too late changes nothing.",
        (
            "`holdover handover status GUEST` and `holdover migrations` say how far it is, and the next "
            "command.",
            "Finish it (`holdover handover finish GUEST`) or roll it back (`holdover handover rollback "
            "GUEST`).",
        ),
        (
            r"handover .* is (under way|over|not prepared|one of guest|not the newest|\{\}|\w+ on )",
            r"a handover of guest",
            r"handover is over",
            r"is the source of handover",
            r"is not the source of",
            r"knows nothing of handover",
            r"is not one to",
            r"the source takes guest .* back",
            r"which is being handed over",
            r"migration .* is (over|\{\})",
            r"too late to cancel",
            r"newest handover of guest",
            r"is migrating already",
            r"no copy of the memory is under way",
            r"could not finish",
        ),
    ),
    Topic(
        "handover-stops",
        "The log says that a handover or a migration stops, waits, or met an unforeseen error.",
        "The agent could not continue by itself. The state is on record: nothing is lost, and the gate "
        "does not change.",
        (
            "Read the error beside the message; if it is about the journal or a LUN, repair that.",
            "`holdover handover status GUEST` says what is true now. Repeat the command that it names.",
            "If it names none, restart the agent: it continues from its journal.",
        ),
        (
            r"a handover has stopped",
            r"work of a handover",
            r"destination of a handover could not be told",
            r"source of a handover could not be asked",
            r"message of a peer was not answered",
            r"what was prepared .*could not be withdrawn",
            r"disks of a guest could not be looked for",
            r"un(foreseen|expected) error",
            r"what follows the end of a QEMU has failed",
            r"request failed",
            r"migration has entered a phase",
            r"failed unexpectedly",
        ),
    ),
    Topic(
        "different-settings",
        "The hosts differ: a guest, a LUN or `migrate-pr` is on one of them alone.",
        "A handover needs the guest, with the same LUNs and settings, in the agents' files of both hosts.",
        (
            "Compare `[[guest]]`, `[[rule]]` and the devices in the agent's files of both hosts.",
            "`holdover migrate GUEST --to HOST --dry-run` checks both hosts and changes nothing.",
        ),
        (
            r"migrate-pr (is .* on the source|differs)",
            r"has LUN .* on .* and not on",
            r"has no LUN",
            r"has no guest",
            r"is not expected on",
            r"is not on ",
            r"no device on (this )?LUN",
            r"two devices of guest",
            r"has LUN .* twice",
            r"the guest of an open handover is not there",
            r"one agent",
            r"guest of an open handover is not there",
        ),
    ),
)
