"""The list of tracked guests: a file that the agent writes and the lock server reads.

The agent writes a guest to the list before the guest's first registration is on record, and so before the
guest hears of it. It removes guests later. So a guest that has something is always on the list of its host.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from holdover.libvirt.lock_rules import Listed

FILE_NAME = "tracked-guests.json"


class TrackedGuest(msgspec.Struct, frozen=True):
    """A guest on the list; ``uuid`` is empty if it is not known. ``host`` is the host that tracks it."""

    uuid: str
    host: str


class TrackedList(msgspec.Struct, frozen=True):
    """The content of the file: the guests by name."""

    guests: Mapping[str, TrackedGuest]

    def has(self, name: str, uuid: str) -> bool:
        """Whether a guest is on the list, by its name or by its UUID.

        Another guest of the same name, with another UUID, is not.
        """
        found = self.guests.get(name)
        if found is not None and found.uuid in ("", uuid):
            return True
        return any(each.uuid == uuid for each in self.guests.values())


def read_list(file: Path) -> TrackedList | None:
    """The list in a file; None if there is none, or if it cannot be read."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=TrackedList)
    except (OSError, msgspec.DecodeError):
        return None


def listed(found: TrackedList | None, name: str, uuid: str) -> Listed:
    """What a list says of a guest."""
    if found is None:
        return Listed.NO_LIST
    return Listed.TRACKED if found.has(name, uuid) else Listed.NOT_TRACKED


def write_list(file: Path, content: TrackedList) -> None:
    """Replace the list in a file; it is on disk when this returns.

    Raises:
        OSError: It cannot be written.
    """
    replace_file(file, msgspec.json.encode(content))


def replace_file(file: Path, content: bytes) -> None:
    """Replace a file that this user alone may read, as a whole. Raises as `write_list`."""
    fresh = file.with_name(f"{file.name}.new")
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with open(descriptor, "wb", closefd=False) as opened:
            opened.write(content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    fresh.replace(file)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
