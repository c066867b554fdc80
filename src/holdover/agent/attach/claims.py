"""Claims of processes to be a guest: which are refused, why, and what an operator sees of them."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping

from holdover.agent.attach.attached_guest import Attached, Refused
from holdover.agent.attach.processes.process_identity import QemuIdentity
from holdover.agent.attach.refusals import CommandRefusals
from holdover.config.agent_file import AgentConfig
from holdover.config.rules import Rules
from holdover.guest.identity_policy import ProcessIdentity, Trust, judge

_CONFLICTS = 64
"""The most refused claims to show: the newest one of each guest."""

_DISKLESS_OF_ONE_USER = 64
_DISKLESS = 256
"""The most guests that no file names and whose processes have shown no disk: of one user, and of all."""

_OF_ONE_ORIGIN = 256
"""The most guests that no file names and whose processes, of one user and cgroup, have no other proof than
what they say."""

_GUESTS = 4096
"""The most guests that no file names."""


class ProcessClaims:
    """The judge of claims against ``guests``, all guests that are known by name.

    Attributes:
        refusals: The answers and log lines to clients that are no guest.
    """

    def __init__(self, config: AgentConfig, rules: Rules, guests: Mapping[str, Attached]) -> None:
        self._own = {guest.name: guest.helper for guest in config.guest if guest.helper is not None}
        self._rules = rules
        self._guests = guests
        self._conflicts: dict[str, str] = {}
        self.refusals = CommandRefusals()

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings for an operator: the newest refused claim to each guest."""
        return tuple(self._conflicts.values())

    def forget(self, name: str) -> None:
        """Forget the claims to a guest that is not known any more."""
        self._conflicts.pop(name, None)

    def conflict(self, name: str, problem: str) -> Refused:
        """The error for a refused claim; the caller logs it, and `holdover status` shows it."""
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        self._conflicts.pop(name, None)
        self._conflicts[name] = f"guest {name}: {problem}; refused at {now}, nothing was changed"
        while len(self._conflicts) > _CONFLICTS:
            del self._conflicts[next(iter(self._conflicts))]
        return Refused(problem)

    def judge(
        self,
        pid: int,
        name: str,
        known: Attached | None,
        said: QemuIdentity,
        now: ProcessIdentity,
        own: str | None,
        *,
        named: bool,
    ) -> Trust:
        """How far a process is known to be the guest of that name.

        ``named``: libvirt has named this process as the guest's QEMU.

        Raises:
            Refused: The process is not that guest.
        """
        if own is not None:
            return Trust.CERTAIN
        if name in self._own:
            raise self.conflict(
                name,
                f"process {pid} ({now}) says that it is guest {name}, which has a socket of its own; give "
                f"its QEMU path={self._own[name]}",
            )
        names = {name, *((said.uuid,) if said.uuid else ()), *(known.names if known is not None else ())}
        recorded = None if known is None else known.recorded
        verdict = judge(name, said.name, now, recorded, self._rules.process(sorted(names)), named=named)
        if isinstance(verdict, str):
            raise self.conflict(name, f"process {pid} ({now}) says that it is guest {name}, but {verdict}")
        return verdict

    def check_room(self, pid: int, now: ProcessIdentity, trust: Trust, *, shown: bool) -> None:
        """Check that one more guest that no file names may be made: one process can have many children.

        Raises:
            Refused: There are too many.
        """
        unlisted = [each for each in self._guests.values() if not each.listed]
        if len(unlisted) >= _GUESTS:
            raise Refused(f"process {pid} ({now}): there are {_GUESTS} guests already that no file names")
        if trust > Trust.CLAIMED:
            return
        by_word = list(_by_word(unlisted))
        same = [each for each in by_word if (each.uid, each.cgroup) == (now.uid, now.cgroup)]
        if len(same) >= _OF_ONE_ORIGIN:
            raise Refused(
                f"process {pid} ({now}): there are {_OF_ONE_ORIGIN} guests of this user and cgroup already; "
                "name its guests in the agent's file, by [[guest]] or by a [[rule]] with uid or cgroup"
            )
        diskless = list(_by_word(each for each in unlisted if not _has_shown(each)))
        of_user = [each for each in diskless if each.uid == now.uid]
        if not shown and (len(diskless) >= _DISKLESS or len(of_user) >= _DISKLESS_OF_ONE_USER):
            raise Refused(
                f"process {pid} ({now}): refused for now: too many processes with a guest's name have not "
                "used a disk yet; this one is accepted when it sends a command with a disk"
            )


def _has_shown(attached: Attached) -> bool:
    return attached.process is not None and attached.process.claim.shown


def _by_word(guests: Iterable[Attached]) -> Iterable[ProcessIdentity]:
    """The identities of the running guests' processes that have no other proof than what they say."""
    for attached in guests:
        process = attached.process
        if process is not None and process.identity is not None and process.claim.trust is Trust.CLAIMED:
            yield process.identity
