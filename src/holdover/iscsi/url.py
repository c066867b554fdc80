"""iSCSI URLs in libiscsi's form: iscsi://[user%password@]host[:port]/iqn/lun."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from urllib.parse import quote, unquote

from holdover.iscsi.errors import IscsiNameError, IscsiUrlError
from holdover.iscsi.names import MAX_LUN, check_iscsi_name

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
    password: str | None = field(default=None, repr=False)

    @property
    def portal(self) -> str:
        """The portal's address, HOST:PORT."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def secret_url(self) -> str:
        """The URL with the secret. Give it only to the code that logs in."""
        if self.user is None or self.password is None:
            return str(self)
        login = f"{quote(self.user, safe='')}%{quote(self.password, safe='')}@"
        return str(replace(self, user=None, password=None)).replace(_SCHEME, f"{_SCHEME}{login}", 1)

    def __str__(self) -> str:
        """The URL without the secret, for messages."""
        login = "" if self.user is None else f"{quote(self.user, safe='')}@"
        return f"{_SCHEME}{login}{self.portal}/{self.iqn}/{self.lun}"


def parse_iscsi_url(url: str, secret: str | None = None) -> IscsiUrl:
    """The parts of a URL. User, password and target name may be percent-encoded.

    ``secret`` is the password for a URL that has a user and no password.

    Raises:
        IscsiUrlError: A part is wrong. The message names the part, and never repeats the password.
    """
    if not url.lower().startswith(_SCHEME):
        raise IscsiUrlError(f"iSCSI URL: must start with {_SCHEME}")
    authority, _, path = url[len(_SCHEME) :].partition("/")
    login, at, portal = authority.rpartition("@")
    if "@" in path or (not at and _has_percent(authority)):
        # Without this check, the code below could take a piece of a password for another part, and show it.
        raise IscsiUrlError(
            "iSCSI URL: in a user or password, write / as %2F and @ as %40, and end them by @"
        )
    user, password = _parse_login(login, secret) if at else (None, None)
    if secret is not None and user is None:
        raise IscsiUrlError(
            "iSCSI URL: the user is missing, whose secret is given (iscsi://USER@host/iqn/lun)"
        )
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


def _has_percent(authority: str) -> bool:
    """Whether there is a percent sign outside of an IPv6 address; an IPv6 zone begins with one."""
    return "%" in authority.partition("]")[2] if authority.startswith("[") else "%" in authority


def _parse_login(login: str, secret: str | None) -> tuple[str, str]:
    """The user and the password of a login.

    The first percent sign that does not begin a percent code separates them. If each percent sign begins one,
    as in user%41ecret, the first percent sign separates them.
    """
    separators = [
        index
        for index, character in enumerate(login)
        if character == "%" and not _PERCENT_CODE.match(login, index)
    ]
    separator = separators[0] if separators else login.find("%")
    if secret is not None:
        if separators:
            raise IscsiUrlError("iSCSI URL: it has a password, and another one is given beside it")
        return unquote(login), secret
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
