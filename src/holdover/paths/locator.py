"""The locator of a logical unit, as people write it: an iSCSI URL, or a device of this host."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path as FilePath

from holdover.iscsi.errors import IscsiUrlError
from holdover.iscsi.url import IscsiUrl, parse_iscsi_url
from holdover.paths.iscsi import InitiatorIdentity, IscsiSessions
from holdover.paths.sgio import SgIo, SgioPath
from holdover.scsi.path import Path


class LocatorError(ValueError):
    """A text that is not a valid locator; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class HostDevice:
    """A SCSI device of this host: /dev/sdX, /dev/sgN, a multipath device, or a link to one of these."""

    path: FilePath

    def __str__(self) -> str:
        return str(self.path)


LunLocator = IscsiUrl | HostDevice


def parse_locator(text: str, secret: str | None = None) -> LunLocator:
    """The locator that ``text`` names: ``iscsi://HOST/IQN/LUN`` or an absolute path.

    Whether the device is there shows only when it is used. ``secret`` is the CHAP secret for a URL that has a
    user and no password.

    Raises:
        LocatorError: ``text`` is neither of the two, or ``secret`` is given for a device.
    """
    if text.startswith("/"):
        if "\0" in text:
            raise LocatorError(f"{text!r}: a path without zero bytes is needed")
        if secret is not None:
            raise LocatorError(f"{text!r}: a device of the host has no secret")
        return HostDevice(FilePath(text))
    if "://" not in text:
        shown = "(not repeated, as it may have a password)" if "@" in text or "%" in text else repr(text)
        raise LocatorError(f"{shown}: write iscsi://HOST/IQN/LUN or a device's path, /dev/disk/by-id/...")
    try:
        return parse_iscsi_url(text, secret)
    except IscsiUrlError as error:
        raise LocatorError(str(error)) from error


def open_path(locator: LunLocator, identity: InitiatorIdentity, sessions: IscsiSessions, io: SgIo) -> Path:
    """A path to ``locator``. It connects, or opens the device, when the first command comes.

    Only iSCSI uses ``identity``. On a device of the host, every user is the host's own nexus.
    """
    if isinstance(locator, HostDevice):
        return SgioPath(locator.path, io)
    return sessions.path(locator, identity)
