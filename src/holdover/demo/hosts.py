"""Several hosts on one machine that know each other by certificates, as the hosts of a site do.

Operators ask each host's agent at a Unix socket. The agents ask each other over loopback, with mutual TLS.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from holdover.config.agent_file import ApiConfig, PeerConfig
from holdover.demo.processes import free_port
from holdover.pki.authority import init, issue

_DAYS = 30


@dataclass(frozen=True, slots=True)
class CertifiedHost:
    """A host with a certificate.

    Attributes:
        name: The name of the host, which its certificate holds.
        api: The Unix socket at which operators ask its agent.
        address: HOST:PORT at which other hosts' agents ask it.
        certificate, key, ca: The files in PEM.
    """

    name: str
    api: str
    address: str
    certificate: Path
    key: Path
    ca: Path

    def options(self, hosts: Mapping[str, CertifiedHost]) -> tuple[str, ...]:
        """The options of ``holdover agent``: its API addresses, and all other ``hosts`` as its peers."""
        pki = ("--certificate", str(self.certificate), "--key", str(self.key), "--ca", str(self.ca))
        peers = (f"{peer.name}={peer.api}" for peer in self.peers(hosts))
        named = (part for peer in peers for part in ("--peer", peer))
        return ("--api", self.api, "--api", self.address, *pki, *named)

    def api_config(self, operators: tuple[str, ...] = ()) -> ApiConfig:
        """The same settings as a part of an agent's configuration."""
        return ApiConfig(
            listen=(self.api, self.address),
            certificate=str(self.certificate),
            key=str(self.key),
            ca=str(self.ca),
            operators=operators,
        )

    def peers(self, hosts: Mapping[str, CertifiedHost]) -> tuple[PeerConfig, ...]:
        """All other ``hosts`` as its peers."""
        return tuple(
            PeerConfig(name=each.name, api=each.address) for each in hosts.values() if each.name != self.name
        )

    def toml(self, hosts: Mapping[str, CertifiedHost]) -> str:
        """The sections ``[api]`` and ``[[peer]]`` of its agent's file."""
        peers = (f'[[peer]]\nname = "{peer.name}"\napi = "{peer.api}"\n' for peer in self.peers(hosts))
        return (
            f'[api]\nlisten = ["{self.api}", "{self.address}"]\ncertificate = "{self.certificate}"\n'
            f'key = "{self.key}"\nca = "{self.ca}"\n{"".join(peers)}'
        )


def certified_hosts(folder: Path, names: Iterable[str]) -> dict[str, CertifiedHost]:
    """Hosts with these names; their certificates and sockets are in ``folder``."""
    now = datetime.datetime.now(datetime.UTC)
    pki = folder / "pki"
    init(pki, 2 * _DAYS, now)
    found = {}
    for name in names:
        made = issue(name, pki, ["127.0.0.1"], _DAYS, now)
        found[name] = CertifiedHost(
            name=name,
            api=f"unix:{folder}/{name}.api.sock",
            address=f"127.0.0.1:{free_port()}",
            certificate=made.certificate,
            key=made.key,
            ca=made.ca,
        )
    return found
