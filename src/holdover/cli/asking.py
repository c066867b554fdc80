"""The agents that a command asks, the certificate that it shows them, and the clients made of both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdover.api.client import AgentClient


API = "HOLDOVER_API"
"""The environment variable with the address of the agent that commands ask if no option names one."""

DEFAULT_API = "unix:/run/holdover/api.sock"
"""The address of the agent of this machine. `holdover.config` has it too, and takes long to import."""


def agent_api(given: str | None) -> str:
    """The address that was given, else the address of this machine's own agent."""
    return given or DEFAULT_API


@dataclass(frozen=True, slots=True)
class Asking:
    """The files by which a command shows who asks; agents need them only over TCP."""

    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None

    def clients(self, *apis: str) -> list[AgentClient]:
        """A client for each address; the caller closes them.

        Raises:
            ConfigError: An address or a file cannot be used.
        """
        return [self.client(api) for api in apis]

    def client(self, api: str, name: str | None = None) -> AgentClient:
        """A client for an address. ``name``: the name that the certificate there must have; None: any that
        fits the address. Raises as `clients`."""
        from holdover.api.client import AgentClient
        from holdover.config.agent_file import ConfigError
        from holdover.pki.tls import ClientTls, Credentials, TlsFiles

        tls = None
        if self.certificate is not None and self.key is not None and self.ca is not None:
            tls = ClientTls(Credentials(TlsFiles(self.certificate, self.key, self.ca)).client, name)
        elif self != Asking():
            raise ConfigError("--certificate, --key and --ca belong together; give all three or none")
        return AgentClient(api, tls=tls)


BY_OPTIONS = Asking()
"""The default of a command's parameter ``asking``: the command gets the options --certificate, --key and --ca
in its place.
"""
