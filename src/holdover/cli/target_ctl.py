"""``holdover target-ctl``: faults and state of a running `holdover target`, over its control socket."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import msgspec

from holdover.cli.console import screen
from holdover.cli.errors import refuse
from holdover.cli.target_control import Add, Answer, Clear, ListFaults, Remove, Request, Status
from holdover.cli.target_state import faults_table, tables
from holdover.faults.fault import FaultError, parse_fault

__all__ = ["run"]

_TIMEOUT = 10.0
_ACTIONS = "list, add FAULT, remove ID, clear, status"


def run(path: Path, action: str, value: str | None, json: bool) -> None:
    """Ask once and show the answer."""
    answer = _ask(path, _request(action, value))
    if answer.error is not None:
        refuse(f"target-ctl {action}: {answer.error}", 1)
    if json:
        shown = answer.status if answer.status is not None else answer.faults
        print(msgspec.json.encode(shown).decode())
    elif answer.status is not None:
        screen().print(tables(answer.status))
    elif answer.faults:
        screen().print(faults_table(answer.faults))
    else:
        print("no fault is in force")


def _request(action: str, value: str | None) -> Request:
    plain: dict[str, Request] = {"list": ListFaults(), "clear": Clear(), "status": Status()}
    if action in plain:
        if value is not None:
            refuse(f"target-ctl {action}: takes nothing after it, but {value!r} is there")
        return plain[action]
    if action not in {"add", "remove"}:
        refuse(f"target-ctl: {action!r} is none of {_ACTIONS}")
    if value is None:
        refuse(f"target-ctl {action}: {'FAULT' if action == 'add' else 'ID'} is missing")
    if action == "add":
        try:
            parse_fault(value)
        except FaultError as error:
            refuse(f"target-ctl add: {error}")
        return Add(value)
    if not value.isascii() or not value.isdecimal() or len(value) > 9:
        refuse(f"target-ctl remove: {value!r} is not the number of a fault")
    return Remove(int(value))


def _ask(path: Path, request: Request) -> Answer:
    """One request, one answer."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_TIMEOUT)
            connection.connect(os.fspath(path))
            connection.sendall(msgspec.json.encode(request) + b"\n")
            with connection.makefile("rb") as lines:
                line = lines.readline()
    except OSError as error:
        refuse(f"{path}: {error.strerror or error}", 1)
    try:
        return msgspec.json.decode(line, type=Answer)
    except msgspec.DecodeError as error:
        refuse(f"{path}: what listens there is no holdover target: {error}", 1)
