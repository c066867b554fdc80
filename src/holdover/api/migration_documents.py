"""The documents about migrations: what operators ask for, what is shown, what two agents tell each other.

``POST /guests/{name}/migration`` takes a `MigrationRequest` and answers the `MigrationState` of the job that
has begun. ``GET /guests/{name}/migration`` answers the state of the guest's newest migration,
``GET /migrations`` a `MigrationList`. ``POST /guests/{name}/migration/cancel`` takes a `MigrationCancel`,
``POST /guests/{name}/migration/change`` a `MigrationChange`.

Agents ask each other: ``POST /peer/migration`` takes a `QemuRequest` about the QEMU that takes the guest, and
answers a `QemuAnswer`.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from holdover.api.documents import LunState, Stale


class TimeoutAction(Enum):
    """What to do if the memory has not been copied within the time limit."""

    ABORT = "abort"
    """Cancel the migration: the guest stays on the source."""
    SUSPEND = "suspend"
    """Stop the guest, so that the copy comes to its end."""


class MigrationOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The options of a migration.

    Attributes:
        bandwidth: The most bytes per second that QEMU sends; None: as QEMU has it set.
        max_downtime: The longest standstill that QEMU aims at, in ms; None: as QEMU has it set.
        timeout: Seconds for the copy of the memory, until the guest stops.
        timeout_action: What to do after that time.
        auto_converge: Whether QEMU slows the guest down until the copy keeps up with it.
        multifd: The number of connections for memory; None: one, with everything else.
        postcopy: Whether the guest switches over after the first pass, and memory is fetched afterwards.
        compression: The method of compression, "zlib" or "zstd"; None: none.
        tls: Whether QEMU's own stream is encrypted.
        stale: What to do if the tracked state of a LUN may be out of date.
    """

    bandwidth: int | None = None
    max_downtime: int | None = None
    timeout: float = 3600.0
    timeout_action: TimeoutAction = TimeoutAction.ABORT
    auto_converge: bool = False
    multifd: int | None = None
    postcopy: bool = False
    compression: str | None = None
    tls: bool = False
    stale: Stale = Stale.REREAD

    def __post_init__(self) -> None:
        for name, value in (("bandwidth", self.bandwidth), ("max_downtime", self.max_downtime)):
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be more than 0, not {value}")
        if not 0 < self.timeout < 1e9:
            raise ValueError(f"timeout must be more than 0 s, not {self.timeout:g}")
        if self.multifd is not None and not 1 <= self.multifd <= 255:
            raise ValueError(f"multifd must be 1 to 255 connections, not {self.multifd}")
        if self.compression not in (None, "zlib", "zstd"):
            raise ValueError(f"compression must be zlib or zstd, not {self.compression}")
        if self.postcopy and (self.multifd is not None or self.compression is not None):
            raise ValueError("postcopy goes neither with multifd nor with compression, which uses multifd")


class MigrationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request to migrate a guest.

    Attributes:
        migration_id: The id of the migration, which is also that of its handover. The same id again is
            the same request: it begins nothing new.
        to: The name of a ``[[peer]]``, or its address as written there.
        dry_run: Whether everything is checked and nothing is changed.
    """

    migration_id: str
    to: str
    options: MigrationOptions = MigrationOptions()
    dry_run: bool = False


class MigrationCancel(msgspec.Struct, frozen=True, kw_only=True):
    """A request to cancel the migration with this id; empty: the guest's newest."""

    migration_id: str = ""


class MigrationChange(msgspec.Struct, frozen=True, kw_only=True):
    """A request to change a migration that is under way; None leaves a setting as it is."""

    bandwidth: int | None = None
    max_downtime: int | None = None


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """The copy of the guest's memory: bytes, bytes per second, milliseconds.

    ``rate`` is what QEMU sends, ``dirty_rate`` what the guest overwrites meanwhile, ``pass_number`` how often
    QEMU has gone through the memory, ``expected_downtime`` how long the guest would stand still now.
    """

    sent: int = 0
    left: int = 0
    total: int = 0
    rate: float = 0.0
    dirty_rate: float = 0.0
    pass_number: int = 0
    expected_downtime: int = 0


class PhaseTime(msgspec.Struct, frozen=True, kw_only=True):
    """A phase of a migration; ``began`` and ``ended`` are seconds since the epoch, 0.0 while it lasts."""

    phase: str
    began: float
    ended: float = 0.0


class MigrationState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a migration, as the source's agent has it.

    Attributes:
        phase: A phase of `holdover.migrate.phases`.
        open: Whether something is left to do.
        now: What is true now, in a sentence.
        next: What comes next, or the command to give; empty if nothing is left to do.
        problem: What prevents it from going on, or what somebody must look at.
        reason: Why the guest stays, or stayed.
        in_doubt: Whether it is not known where the guest is.
        moved: Whether the guest is on the destination now.
        cancellable: Whether the migration can still be cancelled.
        checks: What a dry run has found, and what would be done.
        standstill_ms: The time from STOP on the source to RESUME on the destination, if both clocks agree.
        commit_ms: The duration of the commit.
    """

    migration_id: str
    guest: str
    source: str
    destination: str
    phase: str
    open: bool
    now: str
    next: str = ""
    problem: str = ""
    reason: str = ""
    in_doubt: bool = False
    moved: bool = False
    cancellable: bool = False
    began: float = 0.0
    ended: float = 0.0
    options: MigrationOptions = MigrationOptions()
    memory: Memory | None = None
    phases: tuple[PhaseTime, ...] = ()
    luns: tuple[LunState, ...] = ()
    checks: tuple[str, ...] = ()
    standstill_ms: float | None = None
    commit_ms: float | None = None


class MigrationList(msgspec.Struct, frozen=True, kw_only=True):
    """The newest migration of each guest that has left this host, or is leaving it."""

    host: str
    migrations: tuple[MigrationState, ...]


class StartRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request to bring a guest that runs nowhere to this host.

    Attributes:
        handover_id: The id for the handover that this may need.
        without: The peers of which an operator says that they are dead.
    """

    handover_id: str
    without: tuple[str, ...] = ()


class GuestStarted(msgspec.Struct, frozen=True, kw_only=True):
    """A guest's QEMU may be started on ``host``; ``came_from``: the host that had the guest, if any."""

    guest: str
    host: str
    came_from: str
    text: str


class SendRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request of an agent to another one: hand over a guest that does not run there."""

    guest: str
    handover_id: str


class QemuAction(Enum):
    """What the source's agent asks of the agent whose QEMU takes the guest."""

    CHECK = "check"
    """Say whether a QEMU waits here. Changes nothing."""
    OPEN = "open"
    """Let the QEMU listen, and keep it from running the guest by itself."""
    WAIT = "wait"
    """Say how far it is; if the guest has not arrived, wait for it for a while."""
    RUN = "run"
    """Run the guest. The reservations are here."""
    END = "end"
    """End the QEMU, which has not run the guest."""


class QemuPlace(Enum):
    """How far the QEMU is that takes a guest."""

    WAITING = "waiting"
    """It waits, and does not listen yet."""
    LISTENING = "listening"
    """It listens; the guest has not arrived."""
    ARRIVED = "arrived"
    """It has the whole guest, or with postcopy what is needed to run it; the guest stands still."""
    RUNNING = "running"
    FAILED = "failed"
    """It could not load the guest."""
    GONE = "gone"
    """No QEMU is there."""
    REFUSES = "refuses"
    """It has the guest and refuses to run it."""


class Ran(Enum):
    """Whether the guest has run in the QEMU that took it."""

    NO = "no"
    YES = "yes"
    UNKNOWN = "unknown"


class QemuRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request of the source's agent about the QEMU that takes a guest.

    ``runs`` says whether the guest ran on the source: a guest that was paused stays paused.
    """

    guest: str
    migration_id: str
    action: QemuAction
    options: MigrationOptions = MigrationOptions()
    runs: bool = True
    wait: float = 0.0


class QemuAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """How far the QEMU is that takes a guest.

    Attributes:
        place: How far it is.
        ran: Whether the guest has run there.
        uri: Where it listens.
        problem: Why it is not further.
        resumed: Seconds and microseconds of RESUME, by the clock of that host.
        tls_name: The name in the certificate that QEMU shows there.
    """

    place: QemuPlace
    ran: Ran = Ran.UNKNOWN
    uri: str = ""
    problem: str = ""
    resumed: tuple[int, int] | None = None
    tls_name: str = ""
