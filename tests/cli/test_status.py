"""`holdover status` as people read it."""

from __future__ import annotations

from typing import Any

import pytest

from holdover.api.documents import DeviceState, GuestState, HostState
from holdover.cli import status
from holdover.cli.asking import Asking

DEVICE = DeviceState(
    id="lun0",
    lun=0,
    drive="/dev/sda",
    designator="naa.6001405aaaaa",
    migrate_pr=False,
    gate="MOVED BY QEMU",
    key=None,
    type=None,
    scope=0,
    aptpl=False,
    stale=False,
    in_flight=0,
    held=0,
)


def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *guests: GuestState) -> str:
    async def ask(*_: Any) -> list[HostState | status.Silent]:
        return [HostState(host="host-a", initiator="iqn.x", version="0", api="2.1", guests=guests)]

    monkeypatch.setattr(status, "_ask", ask)
    monkeypatch.setenv("COLUMNS", "200")
    status.run(["127.0.0.1:1"], Asking(), json=False)
    return capsys.readouterr().out


def test_a_guest_left_to_qemu_is_marked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    guest = GuestState(name="db1", host="host-a", machine_type="pc", export="", devices=(DEVICE,))
    assert "MOVED BY QEMU" in shown(monkeypatch, capsys, guest)


def test_a_guest_without_devices_is_there_by_the_name_that_it_has(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    guest = GuestState(name="[red]db1", host="host-a", machine_type="pc", export="", devices=())
    line = next(each for each in shown(monkeypatch, capsys, guest).splitlines() if "db1" in each)
    assert line.split() == ["host-a", "[red]db1", "no", "device", "yet"]
