"""A migration as a value. `step` is pure, and returns the migration after an event.

The driver (`holdover.agent.migration`) puts the value on record, does the work of its phase, and gives the
result to `step`. All work may be repeated. So a restarted agent continues with the work of the phase that is
on record.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from holdover.api.migration_documents import MigrationOptions
from holdover.migrate.phases import PHASES, Happening, Phase, PhaseSpec, Where

_WAYS_BACK = frozenset({Phase.CANCELLING, Phase.WITHDRAWING, Phase.ENDING, Phase.RETURNING, Phase.STAYED})
_ENDED_HERE = frozenset({Phase.COPYING, Phase.ASCERTAINING, Phase.CANCELLING, Phase.RESUMING})
"""The phases in which `Happening.GONE` is about the source's QEMU."""

_ALARMS = frozenset(
    {
        (Phase.FINISHING, Happening.FAILED),
        (Phase.FETCHING, Happening.GONE),
        (Phase.FETCHING, Happening.LOST),
        (Phase.SWITCHING, Happening.LOST),
        (Phase.STARTING, Happening.LOST),
        (Phase.ENDING, Happening.LOST),
        (Phase.CLEARING, Happening.FAILED),
        (Phase.RETURNING, Happening.TAKEN),
    }
)
"""What somebody must look at when the migration is over."""


class NotNow(Exception):
    """The event is not allowed in the present phase of the migration; nothing was changed."""


@dataclass(frozen=True, slots=True)
class MigrationEvent:
    """An event, and why it happened; the other attributes carry its data.

    Attributes:
        was_running: Whether the guest ran when the migration began.
        uri: Where the destination's QEMU listens.
        tls_name: The name in the certificate of the destination's QEMU.
        run_requested: Whether the destination may have been told to run the guest.
    """

    happening: Happening
    problem: str = ""
    was_running: bool | None = None
    uri: str | None = None
    tls_name: str | None = None
    run_requested: bool | None = None


class Migration(msgspec.Struct, frozen=True, kw_only=True):
    """A migration of a guest, as the agent of its source has it on record.

    Attributes:
        migration_id: The id, which is also the id of the handover.
        guest: The guest's name.
        source, destination: The names of both hosts.
        began: Seconds since the epoch.
        options: What was asked for.
        phase: The phase.
        reason: Why the guest stays on the source; empty if it does not.
        problem: What prevents the phase from going on; empty if nothing does.
        alarm: What somebody must look at, although the guest is on the right host.
        was_running: Whether the guest ran when the migration began; a paused guest is left paused.
        uri, tls_name: Where the destination's QEMU listens, and the name in its certificate.
        sent: Whether anything may have been sent to the destination's QEMU.
        run_requested: Whether the destination may have been told to run the guest.
        ended_here, ended_there: Whether the guest's QEMU on the source, or on the destination, has ended, so
            that the guest does not run there.
    """

    migration_id: str
    guest: str
    source: str
    destination: str
    began: float
    options: MigrationOptions = MigrationOptions()
    phase: Phase = Phase.CHECKING
    reason: str = ""
    problem: str = ""
    was_running: bool = True
    uri: str = ""
    tls_name: str = ""
    sent: bool = False
    run_requested: bool = False
    alarm: str = ""
    ended_here: bool = False
    ended_there: bool = False

    @property
    def spec(self) -> PhaseSpec:
        """The row of the phase."""
        return PHASES[self.phase]

    @property
    def is_open(self) -> bool:
        """Whether something is left to do."""
        return not self.spec.final

    @property
    def moved(self) -> bool:
        """Whether the guest is on the destination for good."""
        return self.phase is Phase.MOVED


def step(migration: Migration, happened: MigrationEvent) -> Migration:
    """The migration after something has happened.

    Raises:
        NotNow: The event is not allowed in this phase.
    """
    happening = happened.happening
    following = migration.spec.follows.get(happening)
    if following is None:
        raise NotNow(f"{happening.value}: migration {migration.migration_id} is {migration.phase.value}")
    changes: dict[str, object] = {"phase": following, "problem": happened.problem}
    if following is Phase.COPYING:
        changes["sent"] = True
    if following is Phase.STARTING:
        changes["run_requested"] = True
    if following in _WAYS_BACK and not migration.reason:
        changes["reason"] = _reason(migration, happened)
    if happened.problem and (migration.phase, happening) in _ALARMS:
        changes["alarm"] = happened.problem
    if happening is Happening.GONE and migration.phase in _ENDED_HERE:
        changes["ended_here"] = True
    if happening is Happening.LOST:
        changes["ended_there"] = True
    for name in ("was_running", "uri", "tls_name", "run_requested"):
        value = getattr(happened, name)
        if value is not None:
            changes[name] = value
    return msgspec.structs.replace(migration, **changes)


def _reason(migration: Migration, happened: MigrationEvent) -> str:
    if happened.happening is Happening.RESTARTED:
        return f"the agent of {migration.source} was restarted before anything was changed"
    return happened.problem


def now_of(migration: Migration) -> str:
    """What is true now, in a sentence."""
    if migration.phase is Phase.STAYED and migration.ended_here:
        return (
            "guest {guest} does not run: its QEMU on {source} has ended; its reservations are on {source}"
        ).format(**_words(migration))
    if migration.ended_there and migration.spec.where is Where.DESTINATION:
        return (
            "guest {guest} does not run: it was moved to {destination}, and its QEMU there has ended; its "
            "reservations are on {destination}"
        ).format(**_words(migration))
    return migration.spec.now.format(**_words(migration))


def next_of(migration: Migration) -> str:
    """What is waited for, or the command to give; empty if nothing is left to do."""
    if migration.phase is Phase.STAYED and migration.ended_here:
        return f"start its QEMU on {migration.source}"
    if migration.phase is Phase.MOVED and migration.ended_there:
        return f"start its QEMU on {migration.destination}"
    return migration.spec.waits.format(**_words(migration))


def _words(migration: Migration) -> dict[str, str]:
    return {
        "guest": migration.guest,
        "source": migration.source,
        "destination": migration.destination,
        "runs": "runs" if migration.was_running else "stands paused, as it did before,",
    }


def in_doubt(migration: Migration) -> bool:
    """Whether it is not known where the guest is."""
    return migration.spec.where is Where.UNKNOWN
