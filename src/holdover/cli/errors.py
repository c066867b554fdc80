"""How a command ends when it cannot do what was asked."""

from __future__ import annotations

import sys
from typing import NoReturn

__all__ = ["refuse"]


def refuse(message: str, status: int = 2) -> NoReturn:
    """Say why on standard error and exit: 2 for a wrong request, 1 for one that could not be done."""
    print(f"holdover: {message}", file=sys.stderr)
    sys.exit(status)
