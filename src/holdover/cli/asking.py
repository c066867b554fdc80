"""The options by which every command that asks agents says who it is, and the clients made of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from holdover.agent.client import AgentClient

__all__ = ["Asking", "CaOption", "CertificateOption", "KeyOption"]

CertificateOption = Annotated[
    Path | None,
    typer.Option(
        "--certificate",
        envvar="HOLDOVER_CERTIFICATE",
        help="Your certificate, for agents that other machines can reach (holdover ca issue).",
    ),
]
KeyOption = Annotated[Path | None, typer.Option("--key", envvar="HOLDOVER_KEY", help="Its key.")]
CaOption = Annotated[
    Path | None, typer.Option("--ca", envvar="HOLDOVER_CA", help="The authority of the agents' certificates.")
]


@dataclass(frozen=True, slots=True)
class Asking:
    """Who asks: the files of ``--certificate``, ``--key`` and ``--ca``, or none of them."""

    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None

    def clients(self, *apis: str) -> list[AgentClient]:
        """A client for each of ``apis``; to be closed.

        Raises:
            ConfigError: An address or a file cannot be used.
        """
        from holdover.agent.client import AgentClient
        from holdover.agent.config import ConfigError
        from holdover.agent.tls import ClientTls, Credentials, TlsFiles

        tls = None
        if self.certificate is not None and self.key is not None and self.ca is not None:
            tls = ClientTls(Credentials(TlsFiles(self.certificate, self.key, self.ca)).client)
        elif self != Asking():
            raise ConfigError("--certificate, --key and --ca belong together; give all three or none")
        return [AgentClient(api, tls=tls) for api in apis]
