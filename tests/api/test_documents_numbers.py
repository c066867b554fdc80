"""The documents of the API: no reservation key leaves as a number."""

from __future__ import annotations

import json
from collections.abc import Iterator

import msgspec
import pytest
from msgspec import inspect

from holdover.api.documents import GuestState, HandoverState, HostState, LunState, PeerState, Problem
from holdover.cli.journal.journal import KEY_FIELDS
from holdover.guest.scsi_block import BlockState
from holdover.handover.lun_handover import LunHandover
from holdover.handover.protocol import Destination, Source
from holdover.migrate.result import MigrationResult, Progress
from holdover.reservations.tracked import Tracked

SMALL = {
    "lun",
    "type",
    "scope",
    "in_flight",
    "held",
    "number",
    "count",
    "pending_attentions",
    "status",
    "paths",
}
"""Fields whose whole numbers are small by nature: a JSON reader that rounds above 2**53 reads them right."""


def whole_numbers(kind: inspect.Type, name: str, seen: set[type]) -> Iterator[str]:
    """The names of the fields in which a document may hold a whole number."""
    match kind:
        case inspect.StructType(cls=cls, fields=fields) | inspect.DataclassType(cls=cls, fields=fields):
            if cls not in seen:
                seen.add(cls)
                for field in fields:
                    yield from whole_numbers(field.type, field.name, seen)
        case inspect.UnionType(types=types) | inspect.TupleType(item_types=types):
            for each in types:
                yield from whole_numbers(each, name, seen)
        case inspect.CollectionType(item_type=item):
            yield from whole_numbers(item, name, seen)
        case inspect.IntType():
            yield name
        case inspect.EnumType(cls=cls) if any(isinstance(each.value, int) for each in cls):
            yield name
        case _:
            pass


@pytest.mark.parametrize(
    "document", [HostState, GuestState, HandoverState, PeerState, Problem, MigrationResult, Progress]
)
def test_only_small_numbers_leave_as_numbers(document: type) -> None:
    assert set(whole_numbers(inspect.type_info(document), "", set())) <= SMALL


@pytest.mark.parametrize("body", [BlockState, Source, Destination])
def test_the_keys_in_a_journal_are_known_by_the_names_of_their_fields(body: type) -> None:
    assert set(whole_numbers(inspect.type_info(body), "", set())) <= SMALL | KEY_FIELDS


def test_what_is_known_of_a_lun_is_told_with_keys_as_text() -> None:
    key = 0xFFFF_FFFF_FFFF_FFFE
    lun = LunHandover("naa.1", tracked=Tracked(key), others=(key, key - 1), shared=True)
    told = json.loads(msgspec.json.encode(LunState.of(lun)))
    assert (told["key"], told["others"]) == (
        "0xfffffffffffffffe",
        ["0xfffffffffffffffe", "0xfffffffffffffffd"],
    )
    assert LunState.of(LunHandover("naa.1")).key is None
