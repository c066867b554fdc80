"""The names of the states of a handover, and of the events that can happen to it. `state_table` has the
rest.
"""

from __future__ import annotations

from enum import Enum
from typing import Final


class SourceState(Enum):
    """The state of a handover on the source."""

    CHECKING = "checking"
    """Checks whether the tracked state is true. Nothing was changed yet."""
    PREPARING = "preparing"
    """The destination registers the guest's keys."""
    CONFIRMING = "confirming"
    """Checks the tracked state again, now that the destination has registered."""
    PREPARED = "prepared"
    """Everything is done that can be done before the guest stops."""
    UNDOING = "undoing"
    """The destination removes its registration, while the guest runs on the source."""
    REVIEWING = "reviewing"
    """The destination could not remove its registration. Checks whether what it was told is still true."""
    DISCARDING = "discarding"
    """The destination could not unregister on a path that is away. Removes the destination's spare key from
    it, while the guest runs on the source.
    """
    PROBING = "probing"
    """The agent was restarted before a commit, and the destination may have taken the guest. Checks whether
    the source is still registered.
    """
    RETRACTING = "retracting"
    """The source has lost a registration while its agent was down. The destination removes what it has, or
    says that it has taken the guest.
    """
    LEAVING = "leaving"
    """The guest has stopped: new commands wait, and the commands in flight end."""
    RECHECKING = "rechecking"
    """Something has changed since PREPARED. Reads what the guest has now."""
    CATCHING_UP = "catching up"
    """The destination registers what has changed."""
    GIVING = "giving"
    """The source's part of the commit."""
    COMMITTING = "committing"
    """The destination's part of the commit."""
    HEARING = "hearing"
    """The destination has found that the guest was fenced. Collects the unit attentions that tell the guest
    so.
    """
    COMMITTED = "committed"
    """The reservations are on the destination, and the guest may run there."""
    SETTLING = "settling"
    """The guest runs on the destination. Commands here are refused; clears the unit attentions here."""
    TELLING = "telling"
    """The destination closes the handover."""
    CONCEDING = "conceding"
    """The destination has taken, or is taking, everything without this host. Asks it to finish the handover.
    """
    YIELDING = "yielding"
    """The destination has taken everything. Removes what is still registered on this host's nexus."""
    GONE = "gone"
    """The guest is on the destination. The handover is over."""
    WONDERING = "wondering"
    """The agent was restarted, and the commit may have been done without a record. Checks whether the source
    is still registered.
    """
    RECALLING = "recalling"
    """The agent was restarted. Asks the destination whether the commit was done."""
    REGAINING = "regaining"
    """The commit was not done. Makes the source's registration what it was, and prepares again."""
    CLOSING = "closing"
    """Roll back: the destination shuts its gate."""
    ASKING = "asking"
    """Roll back: checks whether the source has lost its registration."""
    RECLAIMING = "reclaiming"
    """Roll back: makes the source's registration what it was before."""
    RETURNING = "returning"
    """Roll back: the destination gives back what it has."""
    RESUMING = "resuming"
    """Roll back: the reservation moves back."""
    WEIGHING = "weighing"
    """Roll back without the destination: checks whether the LUN still has what was committed. Changes
    nothing.
    """
    ASSESSING = "assessing"
    """Roll back without the destination, before a commit: checks whether the destination can have taken
    anything. Changes nothing.
    """
    ISOLATING = "isolating"
    """Roll back without the destination: registers a key on the source that the destination does not have."""
    EVICTING = "evicting"
    """Roll back without the destination: removes the destination's registration."""
    INQUIRING = "inquiring"
    """Roll back without the destination, after a restart: asks whether the destination has taken
    everything.
    """
    STAYED = "stayed"
    """The guest is on the source with everything that it had. The handover is over."""


ELSEWHERE: Final = "elsewhere"
"""What a source says to its destination in place of its state if the handover is over, and the guest has left
this host in another way.
"""


class DestinationState(Enum):
    """The state of a handover on the destination."""

    REGISTERING = "registering"
    """Registers the guest's keys on this host's nexus."""
    PREPARED = "prepared"
    """The keys are registered; the guest is still on the source."""
    UNSURE = "unsure"
    """The agent was restarted, and the commit may have been done without a record. The LUN is asked before
    anything is answered.
    """
    RECOLLECTING = "recollecting"
    """The source has no registration any more and asks whether the commit was done. Asks the LUN."""
    FAILED = "failed"
    """The last request failed, or was done in part. The source decides what comes next."""
    PREEMPTING = "preempting"
    """This host's part of the commit."""
    COMMITTED = "committed"
    """The reservations are on this host, and the guest's commands pass."""
    ASCERTAINING = "ascertaining"
    """The guest may have run here and goes back. The gate is shut; reads what the guest has."""
    HALTED = "halted"
    """The gate is shut, but what the guest has could not be read."""
    CLOSING = "closing"
    """The gate is shut again. Reads what is registered here."""
    CLOSED = "closed"
    """The gate is shut, and this host preempts nothing any more."""
    RETURNING = "returning"
    """Unregisters, or prepares this host's registration for the source's PREEMPT."""
    RETURNED = "returned"
    """The guest is not on this host. The handover is over."""
    VERIFYING = "verifying"
    """The guest runs here. Checks whether everything is as it should be."""
    HERE = "here"
    """The guest is on this host. The handover is over."""
    CLAIMING = "claiming"
    """The source is dead. Checks whether everything can be taken without it."""
    ASSURING = "assuring"
    """The source is dead. Checks whether everything that was committed is still here."""
    TAKING = "taking"
    """The source is dead. Takes everything without it. There is no way back."""
    INTERRUPTED = "interrupted"
    """The agent was restarted while it took everything. The source may be back since, so that this host does
    nothing until the source or an operator says what comes next.
    """
    REASSURING = "reassuring"
    """Everything was taken. Since then this agent was restarted, or the source may have been back. Checks
    whether what was taken is still here.
    """
    TAKEN = "taken"
    """Everything was taken without the source. The source is told when it comes back."""
    WITHDRAWING = "withdrawing"
    """The source has rolled back without this host. Removes what may be left here."""


class Event(Enum):
    """What can happen to a handover."""

    ASKED_COMMIT = "commit"
    ASKED_ROLL_BACK = "roll back"
    ASKED_ALONE = "roll back alone"
    """Asked of the source: roll back without waiting for the destination. Asked of the destination: remove
    what was prepared there for a guest that cannot run there.
    """
    ASKED_FINISH = "finish"
    ASKED_CHECK = "check"
    """Check whether what was prepared is still true. This happens every few seconds."""
    ASKED_TAKE = "take"
    DONE = "done"
    """The work has succeeded on all LUNs."""
    FAILED = "failed"
    """The work has failed on a LUN, or a LUN cannot be reached."""
    TOLD = "told"
    """The destination has done what the message asked for."""
    REFUSED = "refused"
    """The destination has not done it, or only on some LUNs, and says why."""
    TAKEN = "taken"
    """The destination has taken everything without the source."""
    KEPT = "kept"
    """The destination is still prepared, and a late COMMIT does nothing any more."""
    UNREACHED = "unreached"
    """No answer came. The destination may have done what the message asked for."""
    GIVEN_UP = "given up"
    """No answer came within the time limit (limits.give_up)."""
    CHANGED = "changed"
    """The guest has changed its registration or reservation."""
    RESTARTED = "restarted"
    """The agent was restarted, and has read the handover from the journal."""
    OVER = "over"
    """The source says that this handover is rolled back."""
    PREPARE = "PREPARE"
    COMMIT = "COMMIT"
    RECALL = "RECALL"
    CLOSE = "CLOSE"
    RETURN = "RETURN"
    FINISH = "FINISH"


class MessageKind(Enum):
    """What the source tells the destination."""

    PREPARE = "prepare"
    COMMIT = "commit"
    RECALL = "recall"
    """Whether the commit was done, after a restart of the source's agent."""
    CLOSE = "close"
    RETURN = "return"
    FINISH = "finish"
