"""The version of the API, and with which versions of other agents a handover works.

The version changes with every change that an agent of another version would notice. The first number changes
with the name or the meaning of a field; the second if something is added. Agents whose second numbers are
neighbours hand guests over to each other, so that hosts can be upgraded one by one.
"""

from __future__ import annotations

API_VERSION = "3.2"
"""3.2: the request to run a guest may come on a stream, which has another name in TLS. An agent of 3.1 is
sent requests alone.

3.1: messages of handovers may come on a stream. An agent of 3.0 has none and is sent requests.

3.0: the ids of handovers and migrations, a guest's machine type and what a handover knows of a LUN have
other names. An agent of 2.3 or older is refused.

2.3: the registrants of LUNs, the description of the API, and commits that are done before they are on record
(messages of agents with ``recall`` and ``armed``).

2.2: questions about guests of libvirt.

2.1: migrations as jobs of the agents. 2.0: the key that a commit preempts and a guest's machine type have
other names."""


def refusal_of_version(here: str, mine: str, peer: str, theirs: str) -> str | None:
    """Why two hosts cannot hand guests over to each other; None if they can.

    Args:
        here, mine: The name of this host, and the version of its API.
        peer, theirs: The name of the other host, and the version of its API; empty if it says none.
    """
    one, other = _parsed(mine), _parsed(theirs)
    if one is not None and other is not None and one[0] == other[0] and abs(one[1] - other[1]) <= 1:
        return None
    said = theirs or "none, as before 2.1"
    return (
        f"the agent of {here} has API version {mine}, and the agent of {peer} {said}: a handover works "
        "between equal versions and between neighbours (3.1 and 3.2); upgrade the older one"
    )


def _parsed(version: str) -> tuple[int, int] | None:
    major, dot, minor = version.partition(".")
    if not dot or not major.isdecimal() or not minor.isdecimal():
        return None
    return int(major), int(minor)
