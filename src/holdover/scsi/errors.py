"""The one error that decoding raises."""

from __future__ import annotations


class DecodeError(ValueError):
    """Bytes do not have the form of the standard; the error names the structure, the field and its place.

    Attributes:
        structure: The structure that was decoded, in the standard's words ("PERSISTENT RESERVE OUT CDB").
        problem: What is wrong with the structure.
        offset: The byte of the structure at which the problem is, or None when it has no single place.
    """

    def __init__(self, structure: str, problem: str, offset: int | None = None) -> None:
        where = "" if offset is None else f" at byte {offset}"
        super().__init__(f"{structure}{where}: {problem}")
        self.structure = structure
        self.problem = problem
        self.offset = offset
