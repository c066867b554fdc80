"""The documents of the API: what is sent is what arrives."""

from __future__ import annotations

import msgspec
import pytest

from holdover.api.documents import PeerMessage, PrepareRequest, Stale
from holdover.api.version import API_VERSION
from holdover.handover.lun_handover import LunHandover, Registrations
from holdover.handover.protocol import Answer, Answered, Destination, Message, Source
from holdover.handover.states import DestinationState, MessageKind, SourceState
from holdover.reservations.tracked import Tracked
from holdover.scsi.cdbs.opcodes import ReservationType

LUN = LunHandover(
    "naa.5000",
    tracked=Tracked((1 << 64) - 1, True, ReservationType.EXCLUSIVE_ACCESS_ALL_REGISTRANTS, 0),
    source_spare=1 << 63,
    destination_spare=3,
    fresh_spare=4,
    source=Registrations(2, True, ("sas 5000", "sas 5001"), 4, True),
    by_port=False,
    unreached=True,
    shared=True,
    others=(1, 1, 2),
    standing=(5, 6),
    preempted_key=7,
    registered_there=True,
    lost=True,
    alarm="é",
)
MESSAGE = Message(MessageKind.PREPARE, "h", "db1", 4, (LUN, LunHandover("naa.5001")), "pc-q35-10.2")


@pytest.mark.parametrize(
    "document",
    [
        PeerMessage(version=API_VERSION, host="host-a", message=MESSAGE),
        Answer(Answered.REFUSED, 4, (LUN,), "why"),
        Source(
            "h", "db1", "host-b", SourceState.CATCHING_UP, (LUN,), 4, frozenset({"naa.5000"}), "r", "p", "m"
        ),
        Destination("h", "db1", "host-a", DestinationState.FAILED, (LUN,), 4, Answer(Answered.DONE, 4), "p"),
        PrepareRequest(handover_id="h", to="host-b", stale=Stale.FORCE),
    ],
    ids=lambda document: type(document).__name__,
)
def test_a_document_survives_the_wire_and_the_journal(document: object) -> None:
    assert msgspec.json.decode(msgspec.json.encode(document), type=type(document)) == document


@pytest.mark.parametrize(
    "document",
    [
        b'{"handover_id":"h"}',
        b'{"handover_id":"h","to":"b","stale":"perhaps"}',
        b'{"handover_id":1,"to":"b"}',
        b"[]",
    ],
)
def test_what_makes_no_sense_is_refused(document: bytes) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(document, type=PrepareRequest)
