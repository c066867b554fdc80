"""The initiators that a target admits, by name and by address; pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from holdover.iscsi.errors import IscsiNameError
from holdover.iscsi.names import check_iscsi_name

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_PATTERN = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class AllowList:
    """The names and networks that a target admits; an empty part admits all.

    Attributes:
        initiators: Initiator names, or shell patterns for them, in lower case.
        networks: The networks from which initiators may connect.
    """

    initiators: tuple[str, ...] = ()
    networks: tuple[Network, ...] = field(default=())

    def admits_name(self, initiator: str) -> bool:
        """Whether the initiator with this name, in lower case, may log in."""
        return not self.initiators or any(fnmatchcase(initiator, each) for each in self.initiators)

    def admits_address(self, host: str) -> bool:
        """Whether an initiator may connect from this address."""
        if not self.networks:
            return True
        address = ipaddress.ip_address(host.partition("%")[0])
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return any((mapped or address) in network for network in self.networks)


def parse_allow_list(initiators: Iterable[str], addresses: Iterable[str]) -> AllowList:
    """The allow-list with these names or patterns, and these addresses or networks (192.0.2.0/24).

    Raises:
        ValueError: Says which of them is none.
    """
    names = tuple(each.lower() for each in initiators)
    for name in names:
        if not name:
            raise ValueError("an initiator name is empty")
        if not _PATTERN & set(name):
            try:
                check_iscsi_name(name)
            except IscsiNameError as error:
                raise ValueError(str(error)) from None
    return AllowList(names, tuple(ipaddress.ip_network(each) for each in addresses))
