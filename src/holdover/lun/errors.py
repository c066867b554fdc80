"""What can go wrong when a logical unit is opened. Nothing has been opened or changed then."""

from __future__ import annotations

__all__ = ["LunError", "MediumError", "OptionError", "StoreError"]


class LunError(Exception):
    """The base of the others: a logical unit cannot be opened, and the message says which and why."""


class OptionError(LunError, ValueError):
    """The text of `--lun` is not what it should be."""


class MediumError(LunError):
    """A file cannot be the medium."""


class StoreError(LunError):
    """A file that keeps a logical unit's state is damaged or cannot be read. It is left as it is: reading
    it as empty would open the logical unit to nexuses that a reservation shuts out."""
