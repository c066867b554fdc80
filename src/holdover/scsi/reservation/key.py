"""The text of a reservation key (SPC-4 6.16.3, 64 bits) in documents for people and programs.

Many JSON readers round numbers above 2**53, so a key is always a string: "0x" and lower-case digits.
"""

from __future__ import annotations


def key_text(key: int) -> str:
    """A key as a string, "0x…"."""
    return f"{key:#x}"


def registered_key_text(key: int) -> str | None:
    """The key of a registration as a string; None for key 0, which means "not registered"."""
    return key_text(key) if key else None
