"""What an agent gets from outside, besides its configuration and its journal.

The defaults are the real things. The simulation of whole agents (tests/simulation) gives others, and runs the
same agent over a clock, a network and LUNs that one seed decides.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from holdover.agent.state_file import boot_id
from holdover.api.peer_hosts import Connect
from holdover.network.listening import OpenListener
from holdover.paths.iscsi import InitiatorIdentity
from holdover.paths.locator import LunLocator
from holdover.scsi.path import Path
from holdover.service.stored_sockets import new_listener


def _spare_key() -> int:
    return secrets.randbits(63) + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The clocks, the randomness, the paths and the connections of one agent.

    Attributes:
        clock: Returns the time in seconds since the epoch, which records of the journal carry.
        stopwatch: Returns seconds that only grow; what is measured is the difference of two of them.
        spare_key: Returns a random reservation key that nobody else has.
        open_path: Opens a path to a LUN; None: by iSCSI or SG_IO, whichever its locator says.
        connect: Makes the client of a peer's API; None: over TLS, with the agent's credentials.
        open_listener: Opens the listening sockets of exports; they outlive a restart under systemd.
        boot: Returns the id of this boot of the system; empty: keep no boot and no dead host on record.
    """

    clock: Callable[[], float] = time.time
    stopwatch: Callable[[], float] = time.perf_counter
    spare_key: Callable[[], int] = _spare_key
    open_path: Callable[[LunLocator, InitiatorIdentity], Path] | None = None
    connect: Connect | None = None
    open_listener: OpenListener = new_listener
    boot: Callable[[], str] = boot_id
