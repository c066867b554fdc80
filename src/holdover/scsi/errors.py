"""The one error that decoding raises."""

from __future__ import annotations

__all__ = ["DecodeError"]


class DecodeError(ValueError):
    """Bytes that are not what they should be: names the structure, the field and where it stands.

    Attributes:
        structure: What was being decoded, in the standard's words ("PERSISTENT RESERVE OUT CDB").
        problem: What is wrong with it.
        offset: The byte of the structure at which it shows, or None where that has no single place.
    """

    def __init__(self, structure: str, problem: str, offset: int | None = None) -> None:
        where = "" if offset is None else f" at byte {offset}"
        super().__init__(f"{structure}{where}: {problem}")
        self.structure = structure
        self.problem = problem
        self.offset = offset
