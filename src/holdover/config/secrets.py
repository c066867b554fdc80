"""CHAP secrets of guests' drives: read from files, with warnings if others may read them."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from pathlib import Path

from holdover.guest.options import DeviceOptions
from holdover.iscsi.url import IscsiUrl
from holdover.paths.locator import LocatorError, LunLocator, parse_locator

_LENGTH = 4096
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def locator_of(device: DeviceOptions) -> LunLocator:
    """The locator of a device's logical unit, with the secret from the device's ``secret-file=``.

    Raises:
        LocatorError: The locator or the secret cannot be used; the message never repeats a secret.
    """
    return parse_locator(device.drive, None if device.secret_file is None else _read(device.secret_file))


def secret_warnings(devices: Iterable[DeviceOptions], file: Path | None) -> list[str]:
    """Warnings about secrets that other users than the agent's may read.

    ``file`` is the agent's configuration file. None: the configuration came by the command line, which every
    process of this host may read.
    """
    found = []
    for device in devices:
        if device.secret_file is not None:
            if _is_loose(Path(device.secret_file)):
                found.append(f"{device.secret_file} is a CHAP secret, {_advice(device.secret_file)}")
            continue
        locator = locator_of(device)
        if not isinstance(locator, IscsiUrl) or locator.password is None:
            continue
        if file is None:
            found.append(
                f"the CHAP secret for {locator} is on the command line, which every process of this host may "
                "read; write it into a file of mode 0600, and secret-file=FILE on the device instead"
            )
        elif _is_loose(file):
            found.append(f"{file} has the CHAP secret for {locator} in it, {_advice(file)}")
    return list(dict.fromkeys(found))


def _advice(file: object) -> str:
    return f"and others than its owner may read it; chmod 600 {file}"


def _is_loose(file: Path) -> bool:
    try:
        return bool(file.stat().st_mode & _OTHERS)
    except OSError:
        return False


def _read(name: str) -> str:
    try:
        with Path(name).open("rb") as file:
            raw = file.read(_LENGTH + 1)
        text = raw.decode().removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise LocatorError(f"secret-file {name}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise LocatorError(f"secret-file {name}: is not text") from None
    if not text or len(raw) > _LENGTH or not text.isprintable():
        raise LocatorError(f"secret-file {name}: the file must contain only the secret, on one line")
    return text
