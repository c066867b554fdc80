"""Dropping privileges that a helper does not need: from root to a user with CAP_SYS_RAWIO alone.

The kernel lets PERSISTENT RESERVE through SG_IO only from a process with that capability. A client sends
descriptors that are open already. So the helper's user and group need no access to any device.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import threading
from dataclasses import dataclass

from holdover.helper.listener import resolve_group

CAP_SYS_RAWIO = 17
"""The capability's number (linux/capability.h)."""

_CAPABILITY_VERSION_3 = 0x20080522
_PR_SET_KEEPCAPS = 8
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAPBSET_READ = 23
_CAPABILITIES = 64


class PrivilegeError(Exception):
    """Privileges could not be dropped; the message says which, and why. The process must not continue."""


@dataclass(frozen=True, slots=True)
class UserIdentity:
    """The user and the group that a process takes.

    Attributes:
        uid: The user's number.
        gid: The group's number.
    """

    uid: int
    gid: int


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Set(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def resolve_identity(user: str | None, group: str | None) -> UserIdentity:
    """The numbers of a user and a group, which are given by name or number; None: the present one.

    Raises:
        ValueError: There is no such user or group.
    """
    gid = os.getgid() if group is None else resolve_group(group)
    if user is None:
        return UserIdentity(os.getuid(), gid)
    with contextlib.suppress(KeyError):
        return UserIdentity(pwd.getpwnam(user).pw_uid, gid)
    if user.isdecimal():
        return UserIdentity(int(user), gid)
    raise ValueError(f"there is no user {user!r}")


def drop_privileges(identity: UserIdentity) -> None:
    """Take ``identity``, with no supplementary group, with CAP_SYS_RAWIO alone and no way to get more.

    Call this before there is a second thread: a capability belongs to a thread, not to a process.

    Raises:
        PrivilegeError: A step was refused.
    """
    if threading.active_count() != 1:
        raise PrivilegeError("privileges cannot be dropped: other threads run already")
    libc = ctypes.CDLL(None, use_errno=True)
    # keep capabilities when the user changes; otherwise that change clears the permitted set
    _must(libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0), "PR_SET_KEEPCAPS")
    for capability in range(_CAPABILITIES):
        if libc.prctl(_PR_CAPBSET_READ, capability, 0, 0, 0) == 1:
            _must(libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0), f"dropping capability {capability}")
    try:
        os.setgroups([])
        os.setresgid(identity.gid, identity.gid, identity.gid)
        os.setresuid(identity.uid, identity.uid, identity.uid)
    except OSError as error:
        raise PrivilegeError(
            f"becoming user {identity.uid}, group {identity.gid}: {error.strerror}"
        ) from error
    header = _Header(version=_CAPABILITY_VERSION_3, pid=0)
    kept = 1 << CAP_SYS_RAWIO
    sets = (_Set * 2)(_Set(effective=kept, permitted=kept, inheritable=0), _Set())
    _must(libc.capset(ctypes.byref(header), sets), "keeping CAP_SYS_RAWIO")
    _must(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "PR_SET_NO_NEW_PRIVS")


def drop_capability(capability: int) -> None:
    """Give up one capability from now on, if this process has it.

    Call this before there is a second thread, as `drop_privileges`.

    Raises:
        PrivilegeError: The system refused it.
    """
    if threading.active_count() != 1:
        raise PrivilegeError("privileges cannot be dropped: other threads run already")
    libc = ctypes.CDLL(None, use_errno=True)
    header = _Header(version=_CAPABILITY_VERSION_3, pid=0)
    sets = (_Set * 2)()
    _must(libc.capget(ctypes.byref(header), sets), "reading capabilities")
    place, bit = divmod(capability, 32)
    found = sets[place]
    for name in ("effective", "permitted", "inheritable"):
        setattr(found, name, getattr(found, name) & ~(1 << bit))
    _must(libc.capset(ctypes.byref(header), sets), f"giving up capability {capability}")


def _must(result: int, what: str) -> None:
    if result != 0:
        raise PrivilegeError(f"{what}: {os.strerror(ctypes.get_errno())}")
