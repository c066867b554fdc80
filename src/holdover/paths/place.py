"""Where a logical unit is, as people write it: a URL of iSCSI, or a device of this host."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path as FilePath

from holdover.iscsi.errors import IscsiUrlError
from holdover.iscsi.url import IscsiUrl, parse_iscsi_url
from holdover.paths.iscsi import Identity, IscsiSessions
from holdover.paths.path import Path
from holdover.paths.sgio import SgIo, SgioPath

__all__ = ["HostDevice", "Place", "PlaceError", "open_path", "parse_place"]


class PlaceError(ValueError):
    """A text that names no place: says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class HostDevice:
    """A SCSI device of this host: /dev/sdX, /dev/sgN, a multipath device or a link to one."""

    path: FilePath

    def __str__(self) -> str:
        return str(self.path)


Place = IscsiUrl | HostDevice


def parse_place(text: str) -> Place:
    """Read ``iscsi://HOST/IQN/LUN`` or an absolute path; whether that device is there shows when it is used.

    Raises:
        PlaceError: It is neither.
    """
    if text.startswith("/"):
        if "\0" in text:
            raise PlaceError(f"{text!r}: a path without zero bytes is needed")
        return HostDevice(FilePath(text))
    if "://" not in text:
        raise PlaceError(f"{text!r}: write iscsi://HOST/IQN/LUN or a device's path, /dev/disk/by-id/...")
    try:
        return parse_iscsi_url(text)
    except IscsiUrlError as error:
        raise PlaceError(str(error)) from error


def open_path(place: Place, identity: Identity, sessions: IscsiSessions, io: SgIo) -> Path:
    """A path to ``place``, which connects or opens when the first command comes.

    ``identity`` counts behind iSCSI alone: on a device of the host everybody is the host's nexus.
    """
    if isinstance(place, HostDevice):
        return SgioPath(place.path, io)
    return sessions.path(place, identity)
