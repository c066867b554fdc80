"""How many descriptors a daemon may have: each connection is one, and many systems begin with 1,024."""

from __future__ import annotations

import contextlib
import resource

__all__ = ["raise_descriptor_limit"]


def raise_descriptor_limit() -> None:
    """To the most that the system allows this process."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
