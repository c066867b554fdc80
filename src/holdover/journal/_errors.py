"""Errors of the journal, and how SQLite's become them."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

__all__ = ["MEND", "JournalDamaged", "JournalError", "of_disk"]


class JournalError(Exception):
    """The journal cannot do what was asked; nothing that was acknowledged before is lost by it.

    ``file`` is the journal's, ``what`` has happened, ``remedy`` is what to do next.
    """

    def __init__(self, file: Path, what: str, remedy: str) -> None:
        super().__init__(file, what, remedy)
        self.file = file
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        return f"journal {self.file}: {self.what}; {self.remedy}"


class JournalDamaged(JournalError):
    """The file is not what was written to it; it was left as it is, and nothing in it may be relied on.

    A journal in use that raises this takes no more records until it has been mended and opened anew.
    """


_REMEDIES = {
    "SQLITE_FULL": "make room on its file system",
    "SQLITE_IOERR": "look at the disk and at limits on the size of files, and make room",
    "SQLITE_READONLY": "make the file, its folder and its file system writable",
    "SQLITE_CANTOPEN": "see that its folder is there and this user may write in it",
    "SQLITE_PERM": "let this user read and write it",
    "SQLITE_BUSY": "end the other program that writes to it",
}
_DAMAGE = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
MEND = "`holdover journal check FILE` says what is readable; put a good copy in its place, or set it aside"


def of_disk(file: Path, error: sqlite3.Error | OSError) -> JournalError:
    """What an error of SQLite or the system means for whoever has to mend it."""
    if isinstance(error, OSError):
        what = os.strerror(error.errno) if error.errno else str(error)
        return JournalError(
            file, what, "see that it is there, that this user may write it, and that there is room"
        )
    name: str = getattr(error, "sqlite_errorname", "")
    if name.startswith(_DAMAGE):
        return JournalDamaged(file, f"damaged: {error}", MEND)
    for prefix, remedy in _REMEDIES.items():
        if name.startswith(prefix):
            return JournalError(file, f"{error} ({name})", remedy)
    return JournalError(file, f"{error} ({name or type(error).__name__})", "look at the disk")
