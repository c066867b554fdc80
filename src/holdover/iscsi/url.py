"""iscsi://[user%password@]host[:port]/iqn/lun, the form that libiscsi gave these URLs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

from holdover.iscsi.errors import IscsiNameError, IscsiUrlError
from holdover.iscsi.names import MAX_LUN, check_iscsi_name

__all__ = ["DEFAULT_PORT", "IscsiUrl", "parse_iscsi_url"]

DEFAULT_PORT = 3260

_SCHEME = "iscsi://"
_PERCENT_CODE = re.compile(r"%[0-9A-Fa-f]{2}")


@dataclass(frozen=True, slots=True)
class IscsiUrl:
    """One logical unit behind iSCSI.

    Attributes:
        host: Name or address of the portal, an IPv6 address without brackets.
        port: TCP port of the portal.
        iqn: Name of the target, in lower case.
        lun: Logical unit number, 0 to 16383.
        user: CHAP user, or None.
        password: CHAP secret; None exactly when `user` is.
    """

    host: str
    port: int
    iqn: str
    lun: int
    user: str | None = None
    password: str | None = None

    def __str__(self) -> str:
        """The URL, without the secret, fit for messages."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        login = "" if self.user is None else f"{quote(self.user, safe='')}@"
        return f"{_SCHEME}{login}{host}:{self.port}/{self.iqn}/{self.lun}"


def parse_iscsi_url(url: str) -> IscsiUrl:
    """Take a URL apart. User, password and target name may be percent-encoded.

    Raises:
        IscsiUrlError: names the part that is wrong; never repeats the password.
    """
    if not url.lower().startswith(_SCHEME):
        raise IscsiUrlError(f"iSCSI URL: must start with {_SCHEME}")
    authority, _, path = url[len(_SCHEME) :].partition("/")
    login, at, portal = authority.rpartition("@")
    user, password = _parse_login(login) if at else (None, None)
    host, port = _parse_portal(portal)
    name, slash, lun = path.partition("/")
    if not name:
        raise IscsiUrlError("iSCSI URL: the target name is missing (iscsi://host/IQN/lun)")
    if not slash or not lun:
        raise IscsiUrlError("iSCSI URL: the LUN is missing (iscsi://host/iqn/LUN)")
    try:
        iqn = check_iscsi_name(unquote(name))
    except IscsiNameError as error:
        raise IscsiUrlError(f"iSCSI URL: target name: {error}") from None
    return IscsiUrl(host, port, iqn, _parse_number(lun, "LUN", 0, MAX_LUN), user, password)


def _parse_login(login: str) -> tuple[str, str]:
    """User and password, which the first percent sign that begins no percent code separates; where
    each begins one, as in user%41ecret, the first does."""
    separators = [
        index
        for index, character in enumerate(login)
        if character == "%" and not _PERCENT_CODE.match(login, index)
    ]
    separator = separators[0] if separators else login.find("%")
    if separator < 0:
        raise IscsiUrlError("iSCSI URL: the password is missing (user%password@host)")
    user, password = unquote(login[:separator]), unquote(login[separator + 1 :])
    if not user:
        raise IscsiUrlError("iSCSI URL: the user is empty (user%password@host)")
    if not password:
        raise IscsiUrlError("iSCSI URL: the password is empty (user%password@host)")
    return user, password


def _parse_portal(portal: str) -> tuple[str, int]:
    if portal.startswith("["):
        host, bracket, rest = portal[1:].partition("]")
        if not bracket:
            raise IscsiUrlError(f"iSCSI URL: host {portal!r} has no closing bracket")
        if rest and not rest.startswith(":"):
            raise IscsiUrlError(f"iSCSI URL: {rest!r} after the bracketed host is no port")
        colon, port = rest[:1], rest[1:]
    else:
        host, colon, port = portal.partition(":")
        if ":" in port:
            raise IscsiUrlError(f"iSCSI URL: host {portal!r}: an IPv6 address belongs in brackets")
    if not host:
        raise IscsiUrlError("iSCSI URL: the host is missing")
    return host, _parse_number(port, "port", 1, 65535) if colon else DEFAULT_PORT


def _parse_number(text: str, part: str, low: int, high: int) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not low <= int(text) <= high:
        raise IscsiUrlError(f"iSCSI URL: {part} {text!r} is not a number within {low} to {high}")
    return int(text)
