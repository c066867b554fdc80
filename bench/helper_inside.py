"""The part of `bench.helper` that runs inside the rig's kernel: it starts all helpers and loads each in turn.

Its arguments are a file with `Plan` as JSON and the file for the rows. Further arguments are for the agent's
helper, which knows a guest by its command line: this process plays the guest's QEMU.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
from tests.rig.kernel_programs import start_program

from bench.helper_load import Load

GUEST = "bench"
_FOLDER = Path("/run/bench")
_WARM_UP = 0.3


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to measure.

    Attributes:
        helpers: The name and command of each helper; in a command, SOCKET and CONFIG stand for its own files.
        disks: The devices that clients send, in turn.
        clients: The numbers of clients; each number is a load of its own.
        rounds: How often each figure is taken.
        seconds: How long each load runs.
        config: An agent's file, in which SOCKET has the same meaning.
    """

    helpers: dict[str, list[str]]
    disks: list[str]
    clients: list[int]
    rounds: int
    seconds: float
    config: str


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One figure of one helper under one load; times are in seconds, as in `bench.helper_load.Figures`."""

    helper: str
    clients: int
    round: int
    p50: float
    p99: float
    per_second: float
    own_share: float


def _start(plan: Plan, name: str) -> Path:
    """Start a helper and return its socket."""
    path, config = _FOLDER / f"{name}.sock", _FOLDER / f"{name}.toml"
    config.write_text(plan.config.replace("SOCKET", str(path)))
    words = {"SOCKET": str(path), "CONFIG": str(config)}
    start_program([words.get(word, word) for word in plan.helpers[name]])
    return path


def _measure(plan: Plan, sockets: dict[str, Path], devices: Sequence[int]) -> list[Row]:
    rows = []
    for clients in plan.clients:
        loads = {name: Load(path, devices, clients) for name, path in sockets.items()}
        for load in loads.values():
            load.greet()
            load.run(_WARM_UP)
        for number in range(plan.rounds):
            # The order changes from round to round, so that a drift of the machine affects all.
            names = list(loads) if number % 2 == 0 else list(reversed(loads))
            for name in names:
                found = loads[name].run(plan.seconds)
                rows.append(
                    Row(
                        helper=name,
                        clients=clients,
                        round=number,
                        p50=found.p50,
                        p99=found.p99,
                        per_second=found.per_second,
                        own_share=found.own_share,
                    )
                )
        for load in loads.values():
            load.close()
    return rows


def main() -> None:
    plan = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Plan)
    _FOLDER.mkdir()
    devices = [os.open(each, os.O_RDWR | os.O_NONBLOCK) for each in plan.disks]
    sockets = {name: _start(plan, name) for name in plan.helpers}
    Path(sys.argv[2]).write_bytes(msgspec.json.encode(_measure(plan, sockets, devices)))


if __name__ == "__main__":
    main()
