"""Mutual TLS between agents and those who ask them: files, contexts, and the name of who asks.

A host or an operator is known by the first DNS name (subjectAltName) of its certificate, or where there is
none by its common name: what ``holdover ca show`` calls NAME. Agents verify each other by that name and not
by the address, which may change.
"""

from __future__ import annotations

import asyncio
import datetime
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import structlog
from cryptography import x509
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from holdover.agent.certificate import CertificateError, describe, load_certificates, warnings_of
from holdover.agent.config import ApiConfig, ConfigError

__all__ = ["ClientTls", "Credentials", "NamingProtocol", "TlsFiles", "explain", "peer_name"]

log = structlog.get_logger()

_PEER = "holdover.peer"
_MINIMUM = ssl.TLSVersion.TLSv1_2


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Files in PEM: a certificate (with those between it and the authority), its key, the authorities."""

    certificate: Path
    key: Path
    ca: Path


@dataclass(frozen=True, slots=True)
class ClientTls:
    """How to connect: with which certificate and authorities, and to whom.

    ``server_name`` is the name that the other side's certificate must hold; None for that of its address.
    """

    context: ssl.SSLContext
    server_name: str | None = None


class _LoggedHandshake(ssl.SSLObject):
    """Tells the log why a client does not get in: the client itself only sees its connection closed."""

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLCertVerificationError as error:
            log.warning("client refused", why=f"its certificate: {error.verify_message}")
            raise
        except ssl.SSLError as error:
            log.warning("client refused", why=error.reason or str(error))
            raise


class Credentials:
    """A certificate, its key and the authorities, in contexts for both directions.

    Attributes:
        name: Whom the certificate names.
        server: Asks for the client's certificate, and verifies it.
        client: Verifies the server's certificate, and shows its own.
    """

    def __init__(self, files: TlsFiles) -> None:
        """Read the files.

        Raises:
            ConfigError: One cannot be read, or they do not belong together.
        """
        self._files = files
        self._certificates = _read(files)
        self.name = describe(self._certificates[0][1], datetime.datetime.now(datetime.UTC)).name
        if not self.name:
            raise ConfigError(f"{files.certificate}: names nobody; it must hold a DNS name or a common name")
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.server.verify_mode = ssl.CERT_REQUIRED
        self.server.sslobject_class = _LoggedHandshake
        # a resumed session would not be asked for its certificate again
        self.server.options |= ssl.OP_NO_TICKET
        self.server.num_tickets = 0
        self.client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        for context in (self.server, self.client):
            context.minimum_version = _MINIMUM
        self._load()

    @classmethod
    def of(cls, api: ApiConfig) -> Credentials | None:
        """Those of an agent; None where it has none.

        Raises:
            ConfigError: As above.
        """
        if api.certificate is None or api.key is None or api.ca is None:
            return None
        return cls(TlsFiles(Path(api.certificate), Path(api.key), Path(api.ca)))

    def reload(self) -> None:
        """Take renewed files for all connections from now on.

        Authorities are added; one that is gone from the file is trusted until the agent starts anew.

        Raises:
            ConfigError: As above; nothing has changed then.
        """
        renewed = Credentials(self._files)
        if renewed.name != self.name:
            raise ConfigError(
                f"{self._files.certificate}: names {renewed.name}, and not {self.name} as before"
            )
        self._load()
        self._certificates = renewed._certificates

    def warnings(self, now: datetime.datetime) -> tuple[str, ...]:
        """What is to be told about certificates that end soon."""
        return tuple(warnings_of(self._certificates, now))

    def _load(self) -> None:
        files = self._files
        try:
            for context in (self.server, self.client):
                # with a password at hand, OpenSSL does not ask for one at the terminal
                context.load_cert_chain(files.certificate, files.key, password="")
                context.load_verify_locations(files.ca)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"{files.key}: cannot be used with {files.certificate} ({error}); it must be the key of that "
                "certificate, in PEM and without a passphrase"
            ) from error


def _read(files: TlsFiles) -> list[tuple[Path, x509.Certificate]]:
    """All certificates, our own first, each with its file.

    Raises:
        ConfigError: A file cannot be read, or holds nothing of the kind.
    """
    try:
        files.key.read_bytes()
        found = [(file, each) for file in (files.certificate, files.ca) for each in load_certificates(file)]
    except CertificateError as error:
        raise ConfigError(f"{error}; holdover ca issue makes one") from error
    except OSError as error:
        raise ConfigError(f"{files.key}: {error.strerror}") from error
    return found


class NamingProtocol(HttpToolsProtocol):
    """uvicorn's HTTP, which tells the application whom the client's certificate names."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast(asyncio.Transport, transport))
        self.app_state = {**self.app_state, _PEER: _certified_name(transport)}


def _certified_name(transport: asyncio.BaseTransport) -> str | None:
    """None without TLS; empty, which is nobody's name, for a certificate without one."""
    tls = transport.get_extra_info("ssl_object")
    if tls is None:
        return None
    certificate = tls.getpeercert() or {}
    for kind, name in certificate.get("subjectAltName", ()):
        if kind == "DNS":
            return str(name)
    for relative in certificate.get("subject", ()):
        for kind, name in relative:
            if kind == "commonName":
                return str(name)
    return ""


class _Scoped(Protocol):
    """A request or a connection of Litestar."""

    @property
    def scope(self) -> Mapping[str, object]: ...


def peer_name(request: _Scoped) -> str | None:
    """Whom the verified certificate of the client names.

    None for plain loopback or a Unix socket: the operator on this machine.
    """
    state = request.scope["state"]
    if not isinstance(state, dict):
        raise TypeError(f"the scope's state is {state!r}")
    name: str | None = state[_PEER]
    return name


_PROBLEMS = {
    "PROTOCOL_VERSION": "it speaks no version of TLS that we do (1.2 and later)",
    "WRONG_VERSION_NUMBER": "it does not speak TLS; where it is plain, write http://HOST:PORT",
}


def explain(error: BaseException) -> str | None:
    """In words why TLS failed on the client's side, if it is that."""
    seen: BaseException | None = error
    while seen is not None:
        refused = getattr(seen, "verify_message", None)
        if refused:
            return (
                f"its certificate is refused ({refused}): it must come from an authority in our ca, hold the "
                "name or address that was asked for, and not have ended (holdover ca show)"
            )
        reason = getattr(seen, "reason", None)
        if isinstance(seen, ssl.SSLError) and isinstance(reason, str):
            return next((text for word, text in _PROBLEMS.items() if word in reason), reason)
        seen = seen.__cause__ or seen.__context__
    return None
