"""Mutual TLS between agents and their clients: files, contexts, and the name of the client.

A host or an operator is known by the first DNS name (subjectAltName) of its certificate. If there is none,
the common name counts. ``holdover ca show`` shows this name as NAME. Agents verify each other by that name.
They do not verify the address, because the address may change.
"""

from __future__ import annotations

import asyncio
import datetime
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from cryptography import x509

from holdover.admission.seldom import SeldomByKey
from holdover.config.agent_file import ApiConfig, ConfigError
from holdover.pki.certificate import CertificateError, describe, load_certificates, name_of, warnings_of

log = structlog.get_logger()

STREAM = "holdover-stream"
"""The name of a stream of messages between agents in TLS (ALPN, RFC 7301)."""

CALLER = "holdover.caller"
"""The key under which the state of an ASGI scope names who asks, for the history."""

CERTIFIED = "holdover.certified"
"""The key under which the state of an ASGI scope holds the name from `name_shown`."""

CHARGE = "holdover.charge"
"""The key under which the state of an ASGI scope holds what is called when a client is refused altogether."""

_TELL_SECONDS = 10.0
_MINIMUM = ssl.TLSVersion.TLSv1_2


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Files in PEM: a certificate (with those between it and the authority), its key, the authorities."""

    certificate: Path
    key: Path
    ca: Path


@dataclass(frozen=True, slots=True)
class ClientTls:
    """How a client connects: its certificate, the authorities that it trusts, and the server's name.

    ``server_name`` must be in the server's certificate; None: the address must be in it instead. ``stream``
    is the context for a stream of messages; None: there is none.
    """

    context: ssl.SSLContext
    server_name: str | None = None
    stream: ssl.SSLContext | None = None


class Credentials:
    """A certificate, its key and the authorities, in contexts for both directions.

    Attributes:
        name: The host or operator that the certificate names.
        names: All names and addresses in the certificate.
        server: The context that asks for the client's certificate and verifies it.
        client: The context that verifies the server's certificate and shows the agent's own.
        stream: The same, for a stream of messages; it offers nothing but that.
    """

    def __init__(self, files: TlsFiles) -> None:
        """Read the files.

        Raises:
            ConfigError: A file cannot be read, or the files do not belong together.
        """
        self._files = files
        self._certificates = _read(files)
        described = describe(self._certificates[0][1], datetime.datetime.now(datetime.UTC))
        self.name, self.names = described.name, described.names
        if not self.name:
            raise ConfigError(f"{files.certificate}: names nobody; it must hold a DNS name or a common name")
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.server.verify_mode = ssl.CERT_REQUIRED
        self._refusals = SeldomByKey(_TELL_SECONDS)
        # a client that resumes a session would not be asked for its certificate again
        self.server.options |= ssl.OP_NO_TICKET
        self.server.num_tickets = 0
        self.client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.stream = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.stream.set_alpn_protocols([STREAM])
        self.server.set_alpn_protocols([STREAM, "http/1.1"])
        for context in (self.server, self.client, self.stream):
            context.minimum_version = _MINIMUM
        self._load()

    @classmethod
    def of(cls, api: ApiConfig) -> Credentials | None:
        """The credentials of an agent; None if it has none.

        Raises:
            ConfigError: A file cannot be read, or the files do not belong together.
        """
        if api.certificate is None or api.key is None or api.ca is None:
            return None
        return cls(TlsFiles(Path(api.certificate), Path(api.key), Path(api.ca)))

    def reload(self) -> None:
        """Use renewed files for all connections from now on.

        New authorities are added. An authority that is gone from the file stays trusted until the agent is
        restarted.

        Raises:
            ConfigError: The files cannot be used. Nothing has changed then.
        """
        renewed = Credentials(self._files)
        if renewed.name != self.name:
            raise ConfigError(
                f"{self._files.certificate}: names {renewed.name}, and not {self.name} as before"
            )
        self._load()
        self._certificates, self.names = renewed._certificates, renewed.names

    def warnings(self, now: datetime.datetime) -> tuple[str, ...]:
        """The warnings about certificates that end soon."""
        return tuple(warnings_of(self._certificates, now))

    def ends(self) -> tuple[tuple[str, Path, datetime.datetime], ...]:
        """The name, the file and the end of each certificate."""
        return tuple((name_of(each), file, each.not_valid_after_utc) for file, each in self._certificates)

    def tell_refused(self, error: Exception) -> None:
        """Log why a client's handshake failed. The client itself only sees that its connection is closed.

        Each reason is logged only once in a while. There are no more reasons than OpenSSL knows.
        """
        if isinstance(error, ssl.SSLCertVerificationError):
            why = f"its certificate: {error.verify_message}"
        elif isinstance(error, ssl.SSLError):
            why = getattr(error, "reason", None) or str(error)
        else:
            return  # it has gone, was too slow, or made room for another one
        count = self._refusals.due(why, time.monotonic())
        if count:
            log.warning("The TLS handshake with a client failed.", reason=why, count=count)

    def _load(self) -> None:
        files = self._files
        try:
            for context in (self.server, self.client, self.stream):
                # OpenSSL does not ask for a password at the terminal if one is given
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
        ConfigError: A file cannot be read, or does not hold what it must hold.
    """
    try:
        files.key.read_bytes()
        found = [(file, each) for file in (files.certificate, files.ca) for each in load_certificates(file)]
    except CertificateError as error:
        raise ConfigError(f"{error}; holdover ca issue makes one") from error
    except OSError as error:
        raise ConfigError(f"{files.key}: {error.strerror}") from error
    return found


def name_shown(transport: asyncio.BaseTransport) -> str | None:
    """The name in the certificate of a connection's client.

    None for a Unix socket, which has no TLS. Empty for a certificate without a name; nobody has that name.
    """
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


def certified_name(scope: Mapping[str, Any]) -> str | None:
    """The name in the verified certificate of a request's client; ``scope`` is ASGI's.

    None for a Unix socket: then the client is an operator on this machine.
    """
    name: str | None = scope["state"][CERTIFIED]
    return name


_PROBLEMS = {
    "PROTOCOL_VERSION": "it speaks no version of TLS that we do (1.2 and later)",
    "WRONG_VERSION_NUMBER": "it does not speak TLS, and so it is no agent of this version",
}


_OF_OUR_CERTIFICATE = ("CERTIFICATE", "UNKNOWN_CA", "HANDSHAKE_FAILURE")
"""Alerts of a server that does not accept our certificate, or that has got none (RFC 8446 6.2)."""


def explain(error: BaseException) -> str | None:
    """Why TLS failed on the client's side, in words; None if the error is another one."""
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
            return _in_words(reason)
        seen = seen.__cause__ or seen.__context__
    return None


def _in_words(reason: str) -> str:
    _, is_alert, alert = reason.partition("ALERT_")
    if is_alert and any(word in alert for word in _OF_OUR_CERTIFICATE):
        return (
            f"it refuses our certificate ({alert.lower().replace('_', ' ')}), which must come from the "
            "authority in its api.ca and not have ended (holdover ca show)"
        )
    return next((text for word, text in _PROBLEMS.items() if word in reason), reason)
