"""What the lock server answers by itself, and for which guests it needs the agent's answer: a table.

The lock server is a small process at the socket at which libvirt asks. It goes on when the agent has
trouble. A guest that has no reservation must not be kept from running by that trouble, and a guest that may
have one must not run without the agent's answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Listed(Enum):
    """What the list of tracked guests says of a guest."""

    TRACKED = "an agent has something of the guest on record"
    NOT_TRACKED = "no agent has anything of the guest on record"
    NO_LIST = "there is no list, or the list cannot be read"


class Course(Enum):
    """How the lock server gets to an answer."""

    YES = "yes, without the agent"
    ASK_ELSE_YES = "ask the agent; if the agent does not answer: yes"
    ASK_ELSE_NO = "ask the agent; if the agent does not answer: no"
    ASK_ON = "ask the agent until the agent answers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A question of libvirt, as the lock server sees it.

    Attributes:
        listed: What the list of tracked guests says.
        begins: Whether the owner itself asks, before it becomes a QEMU, which then starts paused.
        passes: Whether the QEMU passes the guest's reservations to a LUN (``scsi-block``), or may do so.
        incoming: Whether the QEMU was started for a migration, or from a saved state.
        post_copy: Whether the QEMU gets its memory by post-copy, in which a refusal loses the guest.
    """

    listed: Listed
    begins: bool
    passes: bool = True
    incoming: bool = False
    post_copy: bool = False


def course(asked: Asked) -> Course:
    """How to get to the answer.

    ===========  ======  ======  ========  ==================================================
    listed       begins  passes  incoming  course
    ===========  ======  ======  ========  ==================================================
    tracked      any     any     any       the agent must answer
    other        yes     any     any       the agent may answer; what begins is asked again
    other        no      no      any       yes: without ``scsi-block`` there is no reservation
    not tracked  no      yes     no        the agent may answer
    not tracked  no      yes     yes       the agent must answer: its source may have one
    no list      no      yes     any       the agent must answer
    ===========  ======  ======  ========  ==================================================

    In post-copy, where the agent must answer, it is asked until it does.
    """
    must = Course.ASK_ON if asked.post_copy else Course.ASK_ELSE_NO
    if asked.listed is Listed.TRACKED:
        return must
    if asked.begins:
        return Course.ASK_ELSE_YES
    if not asked.passes:
        return Course.YES
    if asked.listed is Listed.NOT_TRACKED and not asked.incoming:
        return Course.ASK_ELSE_YES
    return must
