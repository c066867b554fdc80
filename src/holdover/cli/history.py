"""``holdover history``: shows what changed reservations, who asked for it, and what the LUN answered."""

from __future__ import annotations

import datetime
import re

import msgspec

from holdover.cli.asking import Asking
from holdover.cli.errors import refuse
from holdover.cli.one_agent import ask_agent
from holdover.history.entry import Entry
from holdover.terminal import PlainTable, screen

_UNITS = {"m": 60.0, "h": 3600.0, "d": 86400.0}


def run(name: str, api: str, asking: Asking, since: str | None, limit: int, json: bool) -> None:
    """Ask an agent for its history and show it."""
    try:
        begin = 0.0 if since is None else begin_of(since, datetime.datetime.now(datetime.UTC))
    except ValueError as error:
        refuse(str(error))
    found = ask_agent(api, asking, lambda client: client.history(name, begin, limit))
    if json:
        print(msgspec.json.encode(found).decode())
        return
    if not found.entries:
        print(f"{found.host} has no entry{f' of {name}' if name else ''}")
        return
    screen().print(table_of(found.entries), crop=False)


def begin_of(text: str, now: datetime.datetime) -> float:
    """The moment that ``--since`` means: 30m, 12h, 2d ago, or a date and time of ISO 8601.

    Raises:
        ValueError: It is none of these.
    """
    ago = re.fullmatch(r"(\d+)([mhd])", text)
    if ago is not None:
        return now.timestamp() - int(ago[1]) * _UNITS[ago[2]]
    try:
        return datetime.datetime.fromisoformat(text).astimezone(datetime.UTC).timestamp()
    except ValueError as error:
        raise ValueError(f"--since {text}: write 30m, 12h or 2d, or a date as in 2026-11-27T13:00") from error


def table_of(entries: tuple[Entry, ...]) -> PlainTable:
    """The entries as a table."""
    table = PlainTable("TIME", "GUEST", "WHAT", "BY", "ANSWER", "LUN", "HANDOVER")
    for each in entries:
        when = datetime.datetime.fromtimestamp(each.at).astimezone()
        keys = " ".join(key for key in (each.key, each.new_key) if key and key != "0x0")
        kind = "" if each.type is None else f" type {each.type}"
        table.add_row(
            f"{when:%Y-%m-%d %H:%M:%S}",
            each.guest,
            f"{each.what}{kind}{f' {keys}' if keys else ''}",
            each.by,
            each.answer,
            each.lun,
            each.handover_id,
        )
    return table
