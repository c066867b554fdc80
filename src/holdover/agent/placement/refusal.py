"""The refusal of whatever is asked about the place of a guest."""

from __future__ import annotations


class ColdStartRefused(Exception):
    """A guest is not started here, sent, released or forgotten; the message says why, and what to do."""
