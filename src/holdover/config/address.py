"""Addresses in an agent's file, and the error about a setting that cannot be used."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import msgspec


class ConfigError(ValueError):
    """A setting that cannot be used; the message names the file or option, the setting and valid values."""


class HostPort(msgspec.Struct, frozen=True):
    """An address at which to listen or to which to connect."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether only processes of this machine can reach this address."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


class ApiAddress(msgspec.Struct, frozen=True):
    """The address of an API: a host and port, by HTTPS with mutual TLS, or a Unix socket."""

    where: HostPort | Path

    def __str__(self) -> str:
        return f"unix:{self.where}" if isinstance(self.where, Path) else str(self.where)


def parse_host_port(text: str, what: str) -> HostPort:
    """An address from ``HOST:PORT`` or ``[IPv6]:PORT``.

    Raises:
        ConfigError: ``text`` is neither; ``what`` names the setting in the message.
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ConfigError(f"{what}: {text!r}: write an IPv6 address in brackets, [::1]:PORT")
    if not colon or not host or not port.isdecimal() or not 0 <= int(port) <= 65535:
        raise ConfigError(f"{what}: {text!r} is not HOST:PORT")
    return HostPort(host, int(port))


def parse_api(text: str, what: str) -> ApiAddress:
    """An API's address from ``unix:PATH``, ``HOST:PORT`` or ``https://HOST:PORT``; the last two are the same.

    Raises:
        ConfigError: ``text`` is none of these; ``what`` names the setting in the message.
    """
    if text.startswith("unix:"):
        path = Path(text.removeprefix("unix:").removeprefix("//"))
        if not path.is_absolute():
            raise ConfigError(f"{what}: {text!r}: the path of the socket must be absolute, unix:/PATH")
        return ApiAddress(path)
    if text.startswith("http://"):
        raise ConfigError(
            f"{what}: {text!r}: an agent does not speak plain HTTP over TCP; write "
            f"{text.removeprefix('http://').removesuffix('/')}, which is HTTPS, or unix:/PATH"
        )
    return ApiAddress(parse_host_port(text.removeprefix("https://").removesuffix("/"), what))
