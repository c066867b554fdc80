"""Whether a process is the guest that its command line names: the policy, without I/O.

Every process can put any name on its command line, so that name alone proves nothing. This policy also looks
at what the kernel says of the process (user, cgroup, security label). It compares that with an operator's
rule, with libvirt's scope, or with the identity with which the guest's name was first seen.

==========================================  =========================================================
what is known                               the claim is
==========================================  =========================================================
a rule for the guest names uid, cgroup or   `Trust.CERTAIN` if all that it names agree, else
label                                       refused
libvirt has named this process as this      `Trust.CERTAIN`, whatever its command line says: only root's
guest's QEMU (lock protocol)                libvirt can
the cgroup is libvirt's scope of another    refused
guest
the cgroup is libvirt's scope of this       `Trust.CERTAIN`, whatever else differs: libvirt's dynamic
guest                                       ownership changes the user, and only root makes that scope
nothing on record of this name              `Trust.CLAIMED`
uid, cgroup and label are those on record   `Trust.RECORDED`
any of them differs                         refused
==========================================  =========================================================

The number in libvirt's scope (``machine-qemu\\x2d3\\x2ddb1.scope``) counts starts, so the comparison omits
it. It also omits the numbers of login sessions. It compares SELinux labels without their categories,
because libvirt draws new categories at each start. A label that is missing on one side is no difference: the
kernel was started without security labels.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from fnmatch import fnmatchcase

import msgspec

_LIBVIRT_SCOPE = re.compile(r"machine-qemu\\x2d(\d+)\\x2d(.+)\.scope")
_ESCAPED = re.compile(r"\\x([0-9a-f]{2})")
_UNCUT = 48
"""A guest's name of at most this many characters always fits into libvirt's scope uncut."""
_NUMBERS = (
    (re.compile(r"^machine-qemu\\x2d\d+\\x2d"), r"machine-qemu\\x2d*\\x2d"),
    (re.compile(r"^session-c?\d+\.scope$"), "session-*.scope"),
    (re.compile(r"^run-[ru]?[0-9a-f]+\.(scope|service)$"), r"run-*.\1"),
)
"""Parts of a unit's name that differ from one start to the next."""
_SELINUX_PARTS = 3


class Trust(IntEnum):
    """How certain it is that a process is the guest that it claims to be."""

    CLAIMED = 0
    """The command line says so, and no record contradicts it."""

    RECORDED = 1
    """User, cgroup and label are the same as when this name was first seen."""

    CERTAIN = 2
    """A rule, libvirt itself, libvirt's scope, or a socket that belongs to this guest alone says so."""


class ProcessIdentity(msgspec.Struct, frozen=True):
    """What the kernel says of a process at the other end of a socket: user, cgroup, label.

    Attributes:
        uid: The user of the process.
        cgroup: The unit of the process in the cgroup tree, as `cgroup_unit` gives it; empty if there is none.
        label: The security label of the process; empty if the kernel has none.
    """

    uid: int
    cgroup: str = ""
    label: str = ""

    def __str__(self) -> str:
        parts = [f"uid {self.uid}"]
        parts += [f"cgroup {self.cgroup}"] if self.cgroup else []
        parts += [f"label {self.label}"] if self.label else []
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class IdentityRule:
    """What an operator demands of a guest's process; None for what the rule does not name.

    Attributes:
        uid: The user's number.
        cgroup, label: Shell patterns.
    """

    uid: int | None = None
    cgroup: str | None = None
    label: str | None = None

    def mismatches(self, now: ProcessIdentity) -> list[str]:
        """The demands of this rule that the process does not meet."""
        found = []
        if self.uid not in (None, now.uid):
            found.append(f"uid {self.uid}")
        if self.cgroup is not None and not fnmatchcase(now.cgroup, self.cgroup):
            found.append(f"cgroup {self.cgroup}")
        if self.label is not None and not fnmatchcase(now.label, self.label):
            found.append(f"label {self.label}")
        return found


@dataclass(frozen=True, slots=True)
class ProcessClaim:
    """A process that claims to be a guest.

    Attributes:
        trust: How certain the claim is.
        shown: Whether the process has shown a disk that it may write to. If the guest's disks are known, the
            disk must be one of them.
    """

    trust: Trust
    shown: bool = False


def judge(
    guest: str,
    claimed: str | None,
    now: ProcessIdentity,
    recorded: ProcessIdentity | None,
    rule: IdentityRule | None,
    *,
    named: bool = False,
) -> Trust | str:
    """How far a process that claims to be ``guest`` is trusted; a text if it is refused, with the reason.

    ``claimed`` is the name on the command line. It differs from ``guest`` if the UUID identified the guest.
    ``named``: libvirt has named this process as the guest's QEMU.
    """
    if rule is not None:
        lacking = rule.mismatches(now)
        return f"a [[rule]] demands {' and '.join(lacking)}" if lacking else Trust.CERTAIN
    if named:
        return Trust.CERTAIN
    scope = _libvirt_guest(now.cgroup)
    if scope is not None:
        names = [_machine_name(name) for name in (guest, claimed) if name is not None]
        if not all(name == scope or _cut(scope, name) for name in names):
            return f"its cgroup is that of libvirt's guest {scope}{_demand(guest, now)}"
        if all(name == scope for name in names):
            return Trust.CERTAIN
    if recorded is None:
        return Trust.CLAIMED
    if now.uid == recorded.uid and now.cgroup == recorded.cgroup and _same_label(now, recorded):
        return Trust.RECORDED
    return f"guest {guest} has been known as {recorded}{_demand(guest, now)}"


def may_replace(new: ProcessClaim, old: ProcessClaim) -> bool:
    """Whether a new process becomes a guest in place of an old one that still runs.

    If the old process has shown the guest's disk, it gives way only if it has nothing but its claim and the
    new process is certain. Otherwise the process with the higher trust wins; if trust is equal, the process
    that has shown the disk wins. So a process without a disk keeps no other process out.
    """
    if old.shown:
        return old.trust is Trust.CLAIMED and new.trust is Trust.CERTAIN
    return (new.trust, new.shown) > (old.trust, old.shown)


def cgroup_unit(path: str) -> str:
    """The unit in a cgroup's path, without the parts that differ from one start to the next.

    Cgroups below a unit do not count, because whoever runs in the unit can make them.
    """
    found: list[str] = []
    for part in path.removesuffix(" (deleted)").split("/"):
        name = part
        for pattern, replacement in _NUMBERS:
            name = pattern.sub(replacement, name)
        found.append(name)
        if part.endswith((".scope", ".service")):
            break
    return "/".join(found)


def _libvirt_guest(cgroup: str) -> str | None:
    """The guest to whose libvirt scope this cgroup belongs, as libvirt writes the name; else None.

    A user's own service manager can make a scope of any name below user.slice. Elsewhere only root can.
    """
    *slices, unit = cgroup.split("/")[1:] or [""]
    if any(not each.endswith(".slice") or each == "user.slice" for each in slices) or not slices:
        return None
    found = _LIBVIRT_SCOPE.fullmatch(unit.replace(r"\x2d*\x2d", r"\x2d0\x2d"))
    if found is None:
        return None
    return _ESCAPED.sub(lambda each: chr(int(each[1], 16)), found[2])


def _machine_name(guest: str) -> str:
    """A guest's name as libvirt's virDomainGenerateMachineName() writes it, before it is cut to fit."""
    found, after_dot = "", True
    for character in guest:
        if character in ".-":
            found += "" if after_dot else character
            after_dot = True
        else:
            after_dot = False
            found += character if character.isascii() and character.isalnum() else ""
    return found.rstrip("-.")


def _cut(scope: str, name: str) -> bool:
    """Whether a scope may hold the start of a guest's name that was too long for it. That proves nothing."""
    return len(scope) >= _UNCUT and name.startswith(scope)


def _same_label(now: ProcessIdentity, recorded: ProcessIdentity) -> bool:
    return not now.label or not recorded.label or _kind(now.label) == _kind(recorded.label)


def _kind(label: str) -> str:
    """A label without SELinux's level and AppArmor's mode."""
    plain = label.partition(" ")[0]
    parts = plain.split(":")
    return ":".join(parts[:_SELINUX_PARTS]) if len(parts) > _SELINUX_PARTS else plain


def _demand(guest: str, now: ProcessIdentity) -> str:
    """The end of an error: the rule by which an operator accepts the new identity."""
    keys = [f"uid = {now.uid}"]
    keys += [f"cgroup = '{now.cgroup}'"] if now.cgroup else []
    return (
        f'; if it has become {now}, write into the agent\'s file: [[rule]] guest = "{guest}" '
        f"{' '.join(keys)}, and send it SIGHUP"
    )
