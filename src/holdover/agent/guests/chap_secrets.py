"""The CHAP secrets of guests' exports: each in a file of its own, made when it is first needed."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path
from urllib.parse import quote

from holdover.config.agent_file import ConfigError

_RANDOM_BYTES = 12
"""The random bytes of a secret: 96 bits, the least that RFC 7143 9.2.1 asks for. They give 16 characters, the
most that some initiators accept."""

_LONGEST = 255
_MODE = 0o600


class ChapSecrets:
    """The secrets in the agent's state folder.

    A file holds only the secret, without a newline, because QEMU and virsh read the file as it is.
    """

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir / "secrets"

    def file(self, guest: str) -> Path:
        """The file with the secret of a guest."""
        return self._folder / f"{quote(guest, safe='')}.chap"

    def secret(self, guest: str) -> str:
        """The secret of a guest; made now if there is none.

        Raises:
            ConfigError: The secret can neither be read nor made, or others can read it.
        """
        file = self.file(guest)
        try:
            if not os.path.lexists(file):
                self._make(file)
            return self._read(file)
        except OSError as error:
            raise ConfigError(
                f"guest {guest}: the CHAP secret of its export cannot be kept in {file}: {error.strerror}; "
                "set state-dir (--state-dir) to a folder that the agent may write to"
            ) from error

    def _make(self, file: Path) -> None:
        """Make the file, whole or not at all."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = file.with_suffix(".new")
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MODE)
        try:
            os.write(descriptor, secrets.token_urlsafe(_RANDOM_BYTES).encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        draft.rename(file)
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _read(self, file: Path) -> str:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError(f"{file}: is no regular file")
            text = os.read(descriptor, _LONGEST + 1)
        finally:
            os.close(descriptor)
        if status.st_mode & 0o077:
            raise ConfigError(
                f"{file}: others can read this secret (mode {stat.S_IMODE(status.st_mode):04o}); remove "
                "the file, and the agent makes another one, or chmod 600 it where nobody can have read it"
            )
        if not _RANDOM_BYTES <= len(text) <= _LONGEST or not all(0x20 < each < 0x7F for each in text):
            raise ConfigError(
                f"{file}: holds no secret of 12 to {_LONGEST} printable characters on one line without its "
                "newline; remove the file, and the agent makes one"
            )
        return text.decode()
