"""Guests whose drives name one target by two addresses, as far as an agent's file shows it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from holdover.config.agent_file import AgentConfig, parse_guest
from holdover.guest.options import DeviceOptions
from holdover.iscsi.url import IscsiUrl
from holdover.paths.locator import LunLocator, parse_locator


def warnings_of_file(config: AgentConfig) -> list[str]:
    """What `address_warnings` says of the guests in an agent's file.

    Raises:
        ConfigError: A device cannot be used.
    """
    return [
        text
        for guest in config.guest
        for text in address_warnings(guest.name, parse_guest(guest, "configuration")[1])
    ]


def address_warnings(guest: str, devices: Iterable[DeviceOptions]) -> Iterator[str]:
    """A warning for each target name that a guest's drives reach by more than one address.

    Whether the addresses lead to one target, or to two targets of one name, shows only when they are used.

    Raises:
        LocatorError: A drive is no locator.
    """
    drives: dict[str, dict[tuple[str, int], IscsiUrl]] = {}
    for device in devices:
        if isinstance(url := _locator_of(device), IscsiUrl):
            drives.setdefault(url.iqn, {}).setdefault((url.host, url.port), url)
    for iqn, by_address in drives.items():
        if len(by_address) > 1:
            shown = " and ".join(str(url) for url in by_address.values())
            yield (
                f"guest {guest}: the drives {shown} may be two addresses of one target, {iqn}. If they are, "
                "each login by one address ends the session by the other, without end, and the guest's "
                "commands wait: write all drives of the guest on that target with one address. If they are "
                "two targets of one name, nothing is wrong"
            )


def _locator_of(device: DeviceOptions) -> LunLocator:
    """The locator, without a look into the file that has its secret."""
    return parse_locator(device.drive, None if device.secret_file is None else "secret")
