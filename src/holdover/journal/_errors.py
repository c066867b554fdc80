"""Errors of the journal, and the function that makes them from errors of SQLite and of the system."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path


class JournalError(Exception):
    """The journal cannot do what was asked; everything that it acknowledged before is still kept.

    ``file`` is the path of the journal, ``what`` says what happened, ``remedy`` says what to do next.
    """

    def __init__(self, file: Path, what: str, remedy: str) -> None:
        super().__init__(file, what, remedy)
        self.file = file
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        return f"journal {self.file}: {self.what}; {self.remedy}"


class JournalDamaged(JournalError):
    """The file differs from what Holdover wrote to it; the file is left as it is, and must not be relied on.

    An open journal that raises this takes no more records until somebody has repaired and reopened it.
    """


_REMEDIES = {
    "SQLITE_FULL": "free space on its file system",
    "SQLITE_IOERR": "check the disk and the limits on the size of files, and free space",
    "SQLITE_READONLY": "make the file, its folder and its file system writable",
    "SQLITE_CANTOPEN": "check that its folder exists and that this user may write to the folder",
    "SQLITE_PERM": "let this user read and write the file",
    "SQLITE_BUSY": "end the other program that writes to the file",
}
_OF_SYSTEM = {
    errno.ENOENT: "check the path: it is [journal] file in the agent's file, or journal in its state-dir",
    errno.EACCES: "let this user read and write the file",
    errno.EPERM: "let this user read and write the file",
    errno.EROFS: "make its file system writable",
    errno.ENOSPC: "free space on its file system",
    errno.EDQUOT: "free space on its file system, or raise the quota of this user",
}
_DAMAGE = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
MEND = "run `holdover journal check FILE`, which shows what is readable; then replace it by a good copy"


def of_disk(file: Path, error: sqlite3.Error | OSError) -> JournalError:
    """The journal's error for an error of SQLite or of the system, with what the operator can do about it."""
    if isinstance(error, OSError):
        what = os.strerror(error.errno) if error.errno else str(error)
        return JournalError(file, what, _OF_SYSTEM.get(error.errno or 0, "check the file and its disk"))
    name: str = getattr(error, "sqlite_errorname", "")
    if name.startswith(_DAMAGE):
        return JournalDamaged(file, f"damaged: {error}", MEND)
    for prefix, remedy in _REMEDIES.items():
        if name.startswith(prefix):
            return JournalError(file, f"{error} ({name})", remedy)
    return JournalError(file, f"{error} ({name or type(error).__name__})", "check the disk")
