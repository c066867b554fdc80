"""The certificates for QEMU's own stream, in a folder as QEMU reads it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from holdover.api.migration_documents import MigrationOptions
from holdover.config.agent_file import AgentConfig
from holdover.qemu.monitor import QemuError
from holdover.qemu.stream import TlsFolder


class TlsFolders:
    """Makes the folder from the agent's own certificate, unless [migration] tls-dir names one."""

    def __init__(self, config: Callable[[], AgentConfig]) -> None:
        self._config = config

    def folder(self, options: MigrationOptions, peer: str) -> TlsFolder | None:
        """The folder for a migration; None if its stream is not encrypted.

        ``peer`` is the name that the other side's certificate must have, empty on the destination.

        Raises:
            QemuError: The folder cannot be made.
        """
        if not options.tls:
            return None
        config = self._config()
        if config.migration.tls_dir is not None:
            return TlsFolder(config.migration.tls_dir, peer)
        api = config.api
        if api.certificate is None or api.key is None or api.ca is None:
            raise QemuError(
                f"--tls: {config.name} has neither [migration] tls-dir nor a certificate in [api] to make "
                "one from"
            )
        folder = Path(config.state_dir) / "migration-tls"
        files = {
            "ca-cert.pem": api.ca,
            "server-cert.pem": api.certificate,
            "client-cert.pem": api.certificate,
            "server-key.pem": api.key,
            "client-key.pem": api.key,
        }
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for name, file in files.items():
                _link(folder / name, file)
        except OSError as error:
            raise QemuError(f"--tls: {folder} cannot be made: {error.strerror}") from error
        return TlsFolder(str(folder), peer)


def _link(link: Path, file: str) -> None:
    """Let ``link`` lead to ``file``, whatever it was before."""
    wanted = str(Path(file).absolute())
    if link.is_symlink() and str(link.readlink()) == wanted:
        return
    made = link.with_name(f".{link.name}.{os.getpid()}")
    made.unlink(missing_ok=True)
    made.symlink_to(wanted)
    made.replace(link)
