"""``holdover target-ctl``: shows and changes a running `holdover target`, by its control socket."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import msgspec

from holdover.cli.errors import refuse
from holdover.faults.fault import FaultError, parse_fault
from holdover.target.control import Add, Clear, ControlAnswer, ControlStatus, ListFaults, Remove, Request
from holdover.target.state import faults_table, tables
from holdover.terminal import screen

_TIMEOUT = 10.0


def run(path: Path, action: str, value: str | None, json: bool) -> None:
    """Send one request and show the answer."""
    answer = _ask(path, _request(action, value))
    if answer.error is not None:
        refuse(f"target-ctl {action}: {answer.error}", 1)
    if json:
        shown = answer.status if answer.status is not None else answer.faults
        print(msgspec.json.encode(shown).decode())
    elif answer.status is not None:
        screen().print(tables(answer.status), crop=False)
    elif answer.faults:
        screen().print(faults_table(answer.faults), crop=False)
    else:
        print("no fault is in force")


def _request(action: str, value: str | None) -> Request:
    plain: dict[str, Request] = {"list": ListFaults(), "clear": Clear(), "status": ControlStatus()}
    if action in plain:
        if value is not None:
            refuse(f"target-ctl {action}: takes no value; leave {value!r} out")
        return plain[action]
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


def _ask(path: Path, request: Request) -> ControlAnswer:
    """Send a request and return its answer."""
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
        return msgspec.json.decode(line, type=ControlAnswer)
    except msgspec.DecodeError as error:
        refuse(f"{path}: what listens there is no holdover target: {error}", 1)
