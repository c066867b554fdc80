"""The tables of commands with names as long as they are in practice, on 80 columns and on 160."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path

import pytest

from holdover.api.documents import DeviceState, GuestState, HostState, LunState, SessionState
from holdover.cli import ca, status
from holdover.cli.handover import handover
from holdover.cli.journal import journal
from holdover.cli.pr import pr
from holdover.journal.inspect import Inspection
from holdover.journal.records import DeviceRecord, GuestRecord, HandoverRecord, contents_of
from holdover.pki.authority import init, issue
from holdover.scsi.cdbs.opcodes import InServiceAction, ReservationType
from holdover.scsi.reservation.reservation_in import FullStatus, FullStatusDescriptor
from holdover.scsi.reservation.transport_id import IscsiTransportID
from holdover.target.events import Held, Registered
from holdover.target.state import FaultState, SessionReport, TargetLun, TargetState, tables
from holdover.terminal import screen

HOST = "kvm-node-17.cluster-a.example.org"
UUID = "4f0c2b1e-9d37-4c55-8a40-2f6e1b7c9d01"
NAA = "naa.6005076300808b3e9000000000001a2f"
IQN = "iqn.1992-08.com.example:sn.7a1b2c3d4e5f11e9"
PORT = f"{IQN},i,0x80a1b2c3d4e5"
KEY = "0xfedcba9876543210"
DRIVE = f"/dev/disk/by-id/wwn-0x{NAA[4:]}"


def show_status() -> None:
    device = DeviceState(
        id="scsi0-0-0-1",
        lun=1,
        drive=DRIVE,
        designator=NAA,
        migrate_pr=True,
        gate="running",
        key=KEY,
        type=5,
        scope=0,
        aptpl=True,
        stale=True,
        in_flight=0,
        held=2,
    )
    session = SessionState(initiator=IQN)
    guest = GuestState(
        name=UUID, host=HOST, machine_type="pc", export="", devices=(device, device), sessions=(session,)
    )
    host = HostState(host=HOST, initiator=IQN, version="0", api="2.1", guests=(guest,))
    screen().print(status.table_of([host]), crop=False)


def show_handover() -> None:
    lun = LunState(
        designator=NAA,
        migrate_pr=True,
        key=KEY,
        type=5,
        scope=0,
        aptpl=True,
        shared=True,
        others=(KEY, "0x1"),
        alarm="a third node has registered meanwhile",
    )
    screen().print(handover.table_of((lun,)), crop=False)


def show_pr() -> None:
    descriptor = FullStatusDescriptor(
        key=int(KEY, 0),
        holder=True,
        transport_id=IscsiTransportID(IQN, bytes.fromhex("80a1b2c3d4e5")),
        relative_target_port=1,
        type=ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY,
    )
    _, table = pr.SHOW[InServiceAction.READ_FULL_STATUS](FullStatus(1, (descriptor,)).encode())
    screen().print(table, crop=False)


def show_journal() -> None:
    step = HandoverRecord(
        handover_id=UUID,
        guest=UUID,
        role="destination",
        peer=HOST,
        state="committed",
        open=True,
        body=b"{}",
        at=1e9,
    )
    contents = contents_of(
        [GuestRecord(name=UUID, uuid=UUID, machine_type="pc-q35-9.2", origin="attached", process="")],
        [DeviceRecord(guest=UUID, designator=NAA, drive=DRIVE, body=b'{"key":1}')],
        [step],
    )
    journal.print_tables(Inspection(Path("journal"), contents, (step,), 1, None, ()))


def show_target() -> None:
    held = Held(type="wero", key=KEY, initiator=PORT, target_port=1)
    lun = TargetLun(
        lun=0,
        file="/srv/luns/cluster-a/quorum-disk.img",
        size=1 << 30,
        designator=NAA,
        generation=4711,
        aptpl=True,
        registrants=(Registered(initiator=PORT, target_port=1, key=KEY),),
        reservation=held,
    )
    session = SessionReport(
        initiator=IQN,
        isid="0x80a1b2c3d4e5",
        tsih=12,
        peer="192.0.2.117:45678",
        portal="192.0.2.10:3260",
        open_commands=3,
    )
    fault = FaultState(id=1, fault=f"latency=20ms,initiator={IQN}", fitted=10, struck=1)
    screen().print(
        tables(TargetState(iqn=IQN, luns=(lun,), sessions=(session,), faults=(fault,))), crop=False
    )


def show_certificates() -> None:
    now = datetime.datetime.now(datetime.UTC)
    init(Path("ca"), 30, now)
    made = issue(HOST, Path("ca"), ["192.0.2.117"], 20, now)
    ca.show([Path(made.certificate)], json=False)


def on_a_terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    """Have rich take standard output for a terminal of that width, which has no colours."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("LINES", "25")


@pytest.mark.parametrize("columns", [80, 160])
@pytest.mark.parametrize(
    ("show", "words"),
    [
        (show_status, [HOST, UUID, NAA, KEY, "scsi0-0-0-1", "stale"]),
        (show_handover, [NAA, KEY, "registered", "meanwhile"]),
        (show_pr, [PORT, KEY, "registrants"]),
        (show_journal, [UUID, NAA, DRIVE, HOST, "destination", "2001-09-09T01:46:40+00:00"]),
        (
            show_target,
            [IQN, PORT, KEY, "/srv/luns/cluster-a/quorum-disk.img", f"latency=20ms,initiator={IQN}"],
        ),
        (show_certificates, [HOST, "192.0.2.117", "operator"]),
    ],
)
def test_a_table_fits_and_breaks_no_word(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    columns: int,
    show: Callable[[], None],
    words: list[str],
) -> None:
    on_a_terminal(monkeypatch, columns)
    monkeypatch.chdir(tmp_path)
    show()
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns, lines
    found = set(" ".join(lines).replace(", ", " ").split())
    assert set(words) <= found, lines


@pytest.mark.parametrize("show", [show_status, show_pr, show_target])
def test_a_wide_window_shows_rows_under_titles(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], show: Callable[[], None]
) -> None:
    heights = []
    for columns in (80, 240):
        on_a_terminal(monkeypatch, columns)
        show()
        heights.append(len(capsys.readouterr().out.splitlines()))
    assert heights[1] < heights[0]
