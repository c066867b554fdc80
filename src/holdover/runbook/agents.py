"""Topics about agents: their journal, peers, files and clients."""

from __future__ import annotations

from holdover.runbook.topic import Topic

AGENTS = (
    Topic(
        "doctor",
        "`holdover doctor` ends with exit status 1.",
        "A check has found something that does not work. Below each such line stands what to do; unknown "
        "means that the check could not be made.",
        (
            "Do what stands below the first line that is wrong: the checks depend on one another in their "
            "order.",
            "Repeat `holdover doctor` until it ends with exit status 0.",
        ),
        (r"checks? (has|have) found something wrong",),
    ),
    Topic(
        "history",
        "The history has lost entries, or cannot be written.",
        "The disk is full, fails or is too slow. The history is only for reading: guests and handovers do "
        "not wait for it, and the journal is a file of its own.",
        (
            "`df /var/lib/holdover` shows the room that is left. Make room, or repair the disk. Then the "
            "agent writes new entries again.",
            "`holdover history` shows what is kept. What was lost stays in the log.",
        ),
        (r"history (has lost|could not be written)",),
    ),
    Topic(
        "journal-damaged",
        "An agent does not start, or stops, because its journal is damaged, missing or an old copy.",
        "The journal says where each guest's reservations are. An agent with a wrong journal could let a "
        "guest run on "
        "two hosts, so it does not start.",
        (
            "`holdover journal check FILE` says what is wrong, `holdover journal show FILE` what can still "
            "be read.",
            "Put back the file with its -wal and .mark files, if they are elsewhere. An older copy is "
            "refused.",
            "If it is lost: finish what the peers know of open handovers (`holdover handover status GUEST` "
            "there), move "
            "the file away, and start the agent. It finds the guests' registrations on the LUNs and adopts "
            "them.",
        ),
        (
            r"damaged",
            r"its mark",
            r"another program wrote to it",
            r"was replaced while",
            r"transactions were acknowledged",
            r"regular file",
            r"it is empty",
        ),
    ),
    Topic(
        "journal-full",
        "The journal cannot be written, or cannot be opened.",
        "The disk is full, fails, or another agent has the file open. A handover waits until its state is "
        "on record; "
        "guests' commands pass as before.",
        (
            "`df /var/lib/holdover`; make room, or repair the disk. Then the work that waits continues by "
            "itself.",
            "Each agent of one machine needs a `state-dir` of its own.",
        ),
        (
            r"waits for the journal",
            r"could not be recorded",
            r"cannot be written",
            r"could not be (put|taken)",
            r"has it open",
            r"keeps its state there",
            r"lock cannot be opened",
            r"write-ahead log",
            r"folder .* does not exist",
            r"it is closed",
            r"check the disk",
            r"make room",
            r"an earlier Holdover wrote it",
            r"give the path of another file",
        ),
    ),
    Topic(
        "record-unreadable",
        "The log says that a record cannot be read.",
        "A record in the journal, or the list of libvirt's guests, was not written by this version or is "
        "damaged. The "
        "agent asks the LUN instead, or leaves the guest out.",
        (
            "`holdover journal check FILE`.",
            "`holdover status` on all hosts: look whether each guest is where it runs, with its key.",
        ),
        (r"record", r"what was known of libvirt's guests", r"device without a designator"),
    ),
    Topic(
        "agent-unreachable",
        "An agent does not answer, or what answers is not an agent.",
        "The agent does not run, the address is wrong, or the network or a firewall is in between.",
        (
            "On that host: `systemctl status holdover-agent`, `journalctl -u holdover-agent`.",
            "Check `listen` in `[api]` there, and `api` in `[[peer]]` here.",
            "If that host is dead: `holdover handover take GUEST`, or `rollback GUEST --alone`.",
        ),
        (
            r"agent at (?!.*its certificate is refused)",
            r"no agent says",
            r"not a Holdover agent",
            r"no answer within",
        ),
    ),
    Topic(
        "unknown-peer",
        "A host is no peer of the agent.",
        "Agents hand over guests only to hosts that their file names as `[[peer]]`, each by the name in its "
        "certificate.",
        (
            "Add `[[peer]]` with `name` and `api` to the agent's file on both hosts.",
            "`systemctl reload holdover-agent`.",
        ),
        (r"has no peer", r"is no \[\[peer\]\]", r"no such \[\[peer\]\]"),
    ),
    Topic(
        "reload-refused",
        "A reload changed nothing, or some changes wait for a restart.",
        "The file or a certificate cannot be used, a key is one that an agent reads only when it starts, or "
        "a disk of an export cannot be attached or detached now.",
        (
            "Correct what the log names, then `systemctl reload holdover-agent`.",
            "For a change that waits: `systemctl restart holdover-agent`.",
        ),
        (
            r"reload",
            r"new ones cannot be used",
            r"wait for a restart",
            r"signal .*that has no meaning",
            r"SIGHUP ends",
        ),
    ),
    Topic(
        "successor",
        "A successor did not start, so the old agent continues to run.",
        "The new process has refused the file or a certificate, or it has failed. The old agent serves its "
        "guests as before.",
        (
            "Read what the successor has logged: `journalctl -u holdover-agent`. Correct that.",
            "Try again: `systemctl kill --kill-whom=main --signal=SIGUSR2 holdover-agent`.",
            "If no agent runs any more, systemd starts one within a second: `holdover status`.",
        ),
        (r"successor cannot start", r"agent that this one was to replace"),
    ),
    Topic(
        "certificate",
        "A certificate is refused.",
        "The certificate is of another name or authority, has ended, or the client has shown none.",
        (
            "`holdover ca show FILE` says its names and the days left.",
            "A new one: `holdover ca issue NAME --ca DIR --replace`; copy it, then `systemctl reload "
            "holdover-agent`.",
        ),
        (r"certificate", r"\bTLS\b"),
    ),
    Topic(
        "request-refused",
        "The log says that a request or a connection was refused, or turned away.",
        "The client may not ask this, asks too often, or does not speak the protocol. Nobody else is "
        "disturbed.",
        (
            "The log names the client and the reason. If it is an operator, add the name to `operators` in "
            "`[api]`.",
            'A client that you do not know: see the page "Security".',
        ),
        (
            r"^refused",
            r"connections? .*(refused|turned away)",
            r"request .* refused",
            r"no (more )?connections? ",
            r"no connection can be accepted",
            r"breaks the protocol",
        ),
    ),
    Topic(
        "open-export",
        "The log warns of an export without CHAP.",
        "`export-open = true`: every process of this host can read and write the guest's disks.",
        (
            "Remove `export-open` from the `[[guest]]`, and give QEMU the secret: `holdover guest secret "
            "GUEST`.",
        ),
        (r"export-open",),
    ),
)
