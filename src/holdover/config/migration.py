"""The section ``[migration]`` of an agent's file: where the QEMUs of this host take guests that arrive."""

from __future__ import annotations

from pathlib import Path

import msgspec

_LAST_PORT = 65535


class MigrationConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """Where the QEMUs of this host take guests that arrive, and by which certificates.

    Attributes:
        address: The address at which a QEMU of this host listens for a guest. Without this key: the address
            at which the source's agent has reached this agent.
        ports: The first and the last port for QEMUs that were started with `-incoming defer`, `FIRST-LAST`.
        tls-dir: The folder with QEMU's certificates for `--tls`: `ca-cert.pem`, `server-cert.pem`,
            `server-key.pem`, `client-cert.pem`, `client-key.pem`. Without this key the agent makes one from
            `certificate`, `key` and `ca` in `[api]`.
    """

    address: str | None = None
    ports: str = "49152-49215"
    tls_dir: str | None = None

    def __post_init__(self) -> None:
        if not self.port_range:
            raise ValueError(
                f"migration.ports: {self.ports!r}: write FIRST-LAST, from 1 to {_LAST_PORT}, the first not "
                "after the last"
            )
        if self.tls_dir is not None and not Path(self.tls_dir).is_absolute():
            raise ValueError(f"migration.tls-dir: {self.tls_dir!r}: the path must be absolute")

    @property
    def port_range(self) -> range:
        """All ports of ``ports``; empty if it is not FIRST-LAST."""
        first, dash, last = self.ports.partition("-")
        if not dash or not first.isdecimal() or not last.isdecimal():
            return range(0)
        if not 0 < int(first) <= int(last) <= _LAST_PORT:
            return range(0)
        return range(int(first), int(last) + 1)
