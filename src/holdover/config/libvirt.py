"""The section ``[libvirt]`` of an agent's file."""

from __future__ import annotations

from pathlib import Path

import msgspec

_LONGEST = 9.0
DEFAULT_LOCK_SOCKET = "/run/holdover/lock.sock"


class LibvirtConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where libvirt asks whether a guest may run.

    Attributes:
        lock_socket: The socket at which the agent answers the lock server.
        answer_within: The seconds within which the agent answers a question, except in post-copy. libvirt's
            other calls on that host wait meanwhile.
        events: The URI of the libvirt whose events of QEMU tell the agent that a guest has stopped for a
            migration, so that it commits at once. Empty: the agent does not subscribe to them.
        uid: The user (uid) that libvirtd runs as. The agent answers no other user.
    """

    lock_socket: str = DEFAULT_LOCK_SOCKET
    answer_within: float = 8.0
    events: str = "qemu:///system"
    uid: int = 0

    def __post_init__(self) -> None:
        if not Path(self.lock_socket).is_absolute():
            raise ValueError(f"libvirt.lock_socket: {self.lock_socket!r}: the path must be absolute")
        if not self.answer_within > 0:
            raise ValueError("libvirt.answer_within must be more than 0 s")
        if self.answer_within > _LONGEST:
            raise ValueError(
                f"libvirt.answer_within must be {_LONGEST:g} s at most: the lock server waits for 10 s"
            )
