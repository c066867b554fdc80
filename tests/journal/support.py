"""Records for the tests of the journal, and what a journal should hold after a sequence of calls."""

from __future__ import annotations

import asyncio
import string
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from hypothesis import strategies as st

from holdover.journal.journal import JournalLike
from holdover.journal.records import DeviceRecord, GuestRecord, HandoverRecord, Key, Record

T = TypeVar("T")


def guest(name: str = "db1", **changed: str | None) -> GuestRecord:
    values: dict[str, str | None] = {
        "uuid": None,
        "machine_type": "pc-q35-7.2",
        "origin": "configured",
    } | changed
    return GuestRecord(
        name=name,
        uuid=values["uuid"],
        machine_type=values["machine_type"] or "",
        origin=values["origin"] or "",
    )


def device(owner: str = "db1", designator: str = "naa.600140500000000a", body: bytes = b"{}") -> DeviceRecord:
    return DeviceRecord(guest=owner, designator=designator, drive="/dev/sda", body=body)


def step(
    handover_id: str = "h1",
    state: str = "preparing",
    *,
    is_open: bool = True,
    at: float = 1.0,
    body: bytes = b"{}",
) -> HandoverRecord:
    return HandoverRecord(
        handover_id=handover_id,
        guest="db1",
        role="source",
        peer="host-b",
        state=state,
        open=is_open,
        body=body,
        at=at,
    )


_names = st.sampled_from(("a", "b", "c")) | st.text(max_size=8)
_texts = st.text(max_size=20) | st.sampled_from(tuple(string.ascii_lowercase))
_bodies = st.binary(max_size=3000)
_keys: st.SearchStrategy[Key] = _names | st.tuples(_names, _names)

records: st.SearchStrategy[Record] = st.one_of(
    st.builds(
        GuestRecord,
        name=_names,
        uuid=st.none() | _texts,
        machine_type=_texts,
        origin=_texts,
        process=_texts,
    ),
    st.builds(DeviceRecord, guest=_names, designator=_names, drive=_texts, body=_bodies),
    st.builds(
        HandoverRecord,
        handover_id=_names,
        guest=_names,
        role=st.sampled_from(("source", "destination")),
        peer=_texts,
        state=_texts,
        open=st.booleans(),
        body=_bodies,
        at=st.floats(min_value=0, allow_infinity=False) | st.integers(0, 2**70).map(float),
    ),
)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of put, or of forget."""

    records: tuple[Record, ...] = ()
    keys: tuple[Key, ...] = ()

    async def make(self, journal: JournalLike) -> None:
        await (journal.forget(*self.keys) if self.keys else journal.put(*self.records))


calls: st.SearchStrategy[list[Call]] = st.lists(
    st.builds(Call, records=st.lists(records, max_size=5).map(tuple))
    | st.builds(Call, keys=st.lists(_keys, min_size=1, max_size=2).map(tuple)),
    max_size=12,
)


def run(test: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a test in a loop of its own, which does not wait for ever."""

    async def limited() -> T:
        async with asyncio.timeout(600):
            return await test()

    return asyncio.run(limited())
