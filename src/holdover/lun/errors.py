"""The errors of opening a logical unit. After such an error nothing is open, and nothing has changed."""

from __future__ import annotations


class LunError(Exception):
    """A logical unit cannot be opened; the message says which and why. The other errors derive from this."""


class LunOptionError(LunError, ValueError):
    """The text of `--lun` is wrong."""


class MediumError(LunError):
    """A file cannot be the medium."""


class StoreError(LunError):
    """A file with a logical unit's state is damaged or cannot be read. The file is left as it is.

    To take the file as empty would open the logical unit to nexuses that a reservation shuts out.
    """
