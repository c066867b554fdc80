"""What agents of a small site say, for tests of the picture."""

from __future__ import annotations

from holdover.api.documents import DeviceState, GuestState, HandoverState, HostState, PeerAddress
from holdover.api.migration_documents import Memory, MigrationState
from holdover.fleet.picture import HostAnswer

LUN = "naa.60000000000000000000000000000001"


def device(
    gate: str = "running", *, key: str | None = "0xc0ffee", kind: int | None = 5, **more: object
) -> DeviceState:
    values: dict[str, object] = {
        "id": "disk0",
        "lun": 0,
        "drive": "iscsi://san/0",
        "designator": LUN,
        "migrate_pr": True,
        "gate": gate,
        "key": key,
        "type": kind,
        "scope": 0,
        "aptpl": True,
        "stale": False,
        "in_flight": 0,
        "held": 0,
        **more,
    }
    return DeviceState(**values)  # type: ignore[arg-type]


def guest(host: str, *devices: DeviceState, name: str = "db1") -> GuestState:
    return GuestState(name=name, host=host, machine_type="q35", export="", devices=devices)


def host(name: str, *guests: GuestState, warnings: tuple[str, ...] = ()) -> HostState:
    peers = (PeerAddress(name="host-b", api="host-b:8471"),)
    return HostState(
        host=name, initiator="iqn", version="1", api="2.3", guests=guests, warnings=warnings, peers=peers
    )


def answer(state: HostState, **more: object) -> HostAnswer:
    return HostAnswer(f"{state.host}:8471", state.host, state, **more)  # type: ignore[arg-type]


def migration(phase: str = "copying", **more: object) -> MigrationState:
    values: dict[str, object] = {
        "migration_id": "m1",
        "guest": "db1",
        "source": "host-a",
        "destination": "host-b",
        "phase": phase,
        "open": True,
        "now": "the memory is copied",
        "began": 10.0,
        "memory": Memory(sent=50, left=25, total=100),
        **more,
    }
    return MigrationState(**values)  # type: ignore[arg-type]


def handover(role: str = "source", **more: object) -> HandoverState:
    ends = ("host-a", "host-b") if role == "source" else ("host-b", "host-a")
    values: dict[str, object] = {
        "handover_id": "h1",
        "guest": "db1",
        "host": ends[0],
        "role": role,
        "peer": ends[1],
        "state": "prepared",
        "open": True,
        "luns": (),
        **more,
    }
    return HandoverState(**values)  # type: ignore[arg-type]
