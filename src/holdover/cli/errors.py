"""How a command ends that cannot do what it was asked for."""

from __future__ import annotations

import sys
from typing import NoReturn

from holdover.runbook import topic_of

WRONG = 2
"""The exit status of a wrong command line."""


def refuse(message: str, status: int = WRONG) -> NoReturn:
    """Print a message on standard error and exit: with 2 for a wrong command line, 1 for a failure.

    A failure that the runbook has names its topic. A wrong command line names its remedy itself.
    """
    print(f"holdover: {message}", file=sys.stderr)
    topic = None if status == WRONG else topic_of(message)
    if topic is not None:
        print(f"holdover: more about this: holdover explain {topic.name}", file=sys.stderr)
    sys.exit(status)
