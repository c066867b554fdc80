"""``holdover target``: serves embedded LUNs by iSCSI until a signal ends it.

Faults, events and the control socket cost nothing if they are not asked for: then nothing stands between
iSCSI and the LUNs.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.console import Console
from rich.live import Live

from holdover.agent.signals import IDLE_SIGNALS, ends, hold_signals, release_signals
from holdover.cli.daemons.descriptors import raise_descriptor_limit
from holdover.cli.errors import refuse
from holdover.config.agent_file import HostPort, parse_host_port
from holdover.faults.armed import ArmedFaults
from holdover.faults.device import FaultyDevice, Means
from holdover.faults.fault import Fault, parse_fault
from holdover.helper.listener import ListenerError
from holdover.iscsi.chap import ChapCredentials, check_distinct
from holdover.iscsi.errors import IscsiNameError
from holdover.iscsi.names import check_iscsi_name
from holdover.iscsi.target.budget import ByteBudget
from holdover.iscsi.target.connection import TargetConnection
from holdover.iscsi.target.target import IscsiTarget, SessionChange
from holdover.lun.embedded import EmbeddedLun
from holdover.lun.errors import LunError
from holdover.lun.options import LunOptions, parse_lun_options
from holdover.network import event_loop
from holdover.scsi.command import DeviceServer
from holdover.scsi.nexus import ITNexus
from holdover.target.control import Control
from holdover.target.events import Event, fault_struck, listening, session_event
from holdover.target.luns import ServedLun
from holdover.target.state import TargetState, fault_states, lun_state, session_state, tables

_REFRESH = 0.25  # seconds between two updates of the live table


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    portals: list[HostPort]
    iqn: str
    luns: list[LunOptions]
    faults: list[Fault]
    seed: int | None
    control: Path | None
    json_events: bool
    credentials: ChapCredentials | None
    chap_md5: bool
    mutual_credentials: ChapCredentials | None
    max_sessions: int | None
    max_memory: int


def run(
    listen: list[str],
    iqn: str,
    luns: list[str],
    *,
    faults: list[str],
    fault_seed: int | None,
    control: Path | None,
    json_events: bool,
    chap: str | None,
    chap_file: Path | None,
    chap_md5: bool,
    mutual_chap: str | None,
    mutual_chap_file: Path | None,
    max_sessions: int | None,
    max_memory: int,
) -> None:
    """Serve until SIGINT, SIGTERM or SIGHUP."""
    hold_signals()
    try:
        credentials = _credentials("chap", chap, chap_file)
        mutual = _credentials("mutual-chap", mutual_chap, mutual_chap_file)
        check_distinct(credentials, mutual)
        options = _Options(
            portals=[parse_host_port(text, "--listen") for text in listen],
            iqn=check_iscsi_name(iqn),
            luns=[parse_lun_options(text) for text in luns],
            faults=[parse_fault(text) for text in faults],
            seed=fault_seed,
            control=control,
            json_events=json_events,
            credentials=credentials,
            chap_md5=chap_md5,
            mutual_credentials=mutual,
            max_sessions=max_sessions,
            max_memory=max_memory,
        )
    except (IscsiNameError, ValueError) as error:
        refuse(str(error))
    raise_descriptor_limit()
    try:
        event_loop.run(_Serving(options).until_signalled())
    except (OSError, LunError, ListenerError) as error:
        refuse(str(error), 1)


def _credentials(option: str, chap: str | None, file: Path | None) -> ChapCredentials | None:
    """The credentials of --chap or --mutual-chap, or of the file. No message repeats the secret."""
    if file is not None and chap is not None:
        variable = f"HOLDOVER_{option.upper().replace('-', '_')}"
        raise ValueError(
            f"--{option} and --{option}-file: give one of them ({variable} counts as --{option})"
        )
    where = f"--{option}" if file is None else f"--{option}-file {file}"
    if file is not None:
        try:
            chap = file.read_text(encoding="utf-8").removesuffix("\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
            raise ValueError(f"{where}: {reason}") from error
    if chap is None:
        return None
    user, percent, secret = chap.partition("%")
    if not percent or not user or not secret or "\n" in chap:
        raise ValueError(f"{where}: write USER%PASSWORD, on one line")
    return ChapCredentials(user, secret)


class _Target(IscsiTarget):
    """A target that can cut its connections."""

    def __init__(
        self, options: _Options, luns: Mapping[int, DeviceServer], on_session: Callable[[SessionChange], None]
    ) -> None:
        super().__init__(
            options.iqn,
            luns,
            credentials=options.credentials,
            chap_md5=options.chap_md5,
            mutual_credentials=options.mutual_credentials,
            max_sessions=options.max_sessions,
            sessions_option="--max-sessions",
            budget=ByteBudget(options.max_memory << 20),
            on_session=on_session,
        )
        self._cuttable: set[TargetConnection] = set()
        self._cutting: set[asyncio.Task[None]] = set()

    def connection_opened(self, connection: TargetConnection) -> bool:
        opened = super().connection_opened(connection)
        if opened:
            self._cuttable.add(connection)
        return opened

    def connection_ended(self, connection: TargetConnection, reason: str) -> None:
        self._cuttable.discard(connection)
        super().connection_ended(connection, reason)

    def cut(self, nexus: ITNexus) -> None:
        """Cut the connection of an I_T nexus."""
        for connection in [each for each in self._cuttable if each.nexus == nexus]:
            task = asyncio.create_task(connection.shut("a fault cut the connection"))
            self._cutting.add(task)
            task.add_done_callback(self._cutting.discard)


class _Serving:
    """One run of the command: its LUNs, its target and its faults."""

    def __init__(self, options: _Options) -> None:
        self._options = options
        self._tell: Callable[[Event], None] = _JsonLines() if options.json_events else _tell_nobody
        self._faults = ArmedFaults(random.Random(options.seed).random)
        for fault in options.faults:
            self._faults.add(fault)
        self._faulty = bool(options.faults) or options.control is not None
        self._luns: list[EmbeddedLun | ServedLun] = []
        self._devices: dict[int, DeviceServer] = {}
        self._target = _Target(options, self._devices, lambda change: self._tell(session_event(change)))
        self._control = Control(self._faults, self._state)

    async def until_signalled(self) -> None:
        """Open the LUNs, serve them, and close them when a signal comes.

        Raises:
            OSError: The address cannot be listened on.
            LunError: A LUN cannot be opened.
            ListenerError: There is no control socket to listen at.
        """
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()

        def signalled(number: int) -> None:
            if ends(number):
                ended.set()

        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, *IDLE_SIGNALS):
            loop.add_signal_handler(each, signalled, each)
        release_signals()
        try:
            for number, options in enumerate(self._options.luns):
                self._open(number, options)
            if self._options.control is not None:
                await self._control.start(self._options.control)
            for portal in self._options.portals:
                bound = await self._target.start(portal.host, portal.port)
                self._say_where(HostPort(portal.host, bound))
            await self._watch(ended)
        finally:
            await self._control.close()
            await self._target.close()
            for lun in self._luns:
                await lun.close()

    def _open(self, number: int, options: LunOptions) -> None:
        lun: EmbeddedLun | ServedLun
        if not self._faulty and not self._options.json_events:
            lun = self._devices[number] = EmbeddedLun.open(options)
        else:
            lun = self._devices[number] = ServedLun(number, options, self._tell)
            if self._faulty:
                means = Means(self._target.cut, lambda *struck: self._tell(fault_struck(*struck)))
                self._devices[number] = FaultyDevice(number, lun, self._faults, means)
        self._luns.append(lun)

    def _say_where(self, portal: HostPort) -> None:
        for number, options in enumerate(self._options.luns):
            url = f"iscsi://{portal}/{self._options.iqn}/{number}"
            self._tell(listening(number, str(options.file), url))
            if not self._options.json_events:
                print(f"LUN {number}: {options.file} at {url}", flush=True)

    async def _watch(self, ended: asyncio.Event) -> None:
        """Wait for the signal. On a terminal, show the state meanwhile."""
        console = Console()
        if self._options.json_events or not console.is_terminal:
            await ended.wait()
            return
        shown = None
        with Live(console=console, auto_refresh=False) as live:
            while not ended.is_set():
                state = self._state()
                if state != shown:
                    live.update(tables(state, folds=True), refresh=True)
                    shown = state
                try:
                    await asyncio.wait_for(ended.wait(), _REFRESH)
                except TimeoutError:
                    continue

    def _state(self) -> TargetState:
        numbered = enumerate(zip(self._options.luns, self._luns, strict=True))
        return TargetState(
            iqn=self._target.iqn,
            luns=tuple(lun_state(number, options, lun) for number, (options, lun) in numbered),
            sessions=tuple(session_state(each) for each in self._target.sessions()),
            faults=fault_states(self._faults.armed),
        )


class _JsonLines:
    """Prints events on standard output, until nobody reads them any more.

    No event is lost: the target waits for a reader that is slow.
    """

    def __init__(self) -> None:
        self._read = True

    def __call__(self, event: Event) -> None:
        if not self._read:
            return
        rest = memoryview(msgspec.json.encode(event) + b"\n")
        try:
            while rest:
                rest = rest[os.write(1, rest) :]
        except OSError as error:
            self._read = False
            print(f"holdover: --json-events: {error.strerror}; no more events", file=sys.stderr)


def _tell_nobody(_: Event) -> None:
    pass
