"""Initiator and target session with digests, on a wire that damages what it carries (RFC 7143 7.8)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from holdover.iscsi.digest import Digest
from holdover.iscsi.initiator.events import CommandCompleted, InitiatorEvent, LoggedIn, SessionClosed
from holdover.iscsi.initiator.login import InitiatorConfig
from holdover.iscsi.negotiation import NegotiationLimits
from holdover.iscsi.numbers import Opcode
from holdover.iscsi.target.events import Closed
from holdover.iscsi.target.protocol.login import TargetConfig
from holdover.scsi.sense import describe_response
from tests.iscsi.pair import INITIATOR, ISID, TARGET, Pair
from tests.iscsi.ram import BLOCK, TEST_UNIT_READY, read, write

BOTH = (Digest.CRC32C, Digest.NONE)
DATA = bytes(range(256)) * 2 * 20


class Wire:
    """Flips a bit near the marked bytes, the given number of times."""

    def __init__(self) -> None:
        self.marked = b""
        self.offset = 0
        self.times = 0

    def __call__(self, data: bytes) -> Iterable[bytes]:
        at = data.find(self.marked) if self.marked else -1
        if at < 0 or not self.times:
            return [data]
        self.times -= 1
        damaged = bytearray(data)
        damaged[at + self.offset] ^= 0x10
        return [bytes(damaged)]

    def damage(self, marked: bytes, offset: int = 0, times: int = 1) -> None:
        self.marked, self.offset, self.times = marked, offset, times


def connected(limits: NegotiationLimits) -> tuple[Pair, Wire]:
    wire = Wire()
    pair = Pair(
        InitiatorConfig(INITIATOR, ISID, TARGET, limits=limits), TargetConfig(TARGET, limits=limits), cut=wire
    )
    assert isinstance(pair.run()[0], LoggedIn)
    assert pair.initiator.parameters.header_digest is Digest.CRC32C
    assert pair.initiator.parameters.data_digest is Digest.CRC32C
    return pair, wire


IMMEDIATE = NegotiationLimits(True, True, 65536, 65536, 65536, header_digests=BOTH, data_digests=BOTH)
UNSOLICITED = NegotiationLimits(False, True, 1024, 4096, 4096, header_digests=BOTH, data_digests=BOTH)
SOLICITED = NegotiationLimits(True, False, 1024, 4096, 4096, 3, header_digests=BOTH, data_digests=BOTH)


def completed(events: list[InitiatorEvent]) -> dict[int, str]:
    return {
        event.tag: describe_response(event.response)
        for event in events
        if isinstance(event, CommandCompleted)
    }


def test_a_login_without_the_peers_digest_is_one_without() -> None:
    limits = NegotiationLimits(header_digests=BOTH, data_digests=(Digest.NONE,))
    pair = Pair(InitiatorConfig(INITIATOR, ISID, TARGET, limits=limits), TargetConfig(TARGET))
    pair.run()
    assert pair.target.parameters.header_digest is Digest.CRC32C
    assert pair.target.parameters.data_digest is Digest.NONE
    assert NegotiationLimits().values()["HeaderDigest"] == "None,CRC32C"


@pytest.mark.parametrize("limits", [IMMEDIATE, UNSOLICITED], ids=["immediate", "unsolicited"])
@pytest.mark.parametrize("times", [1, 3])
def test_damaged_immediate_data_are_sent_again_and_nothing_overtakes_them(
    limits: NegotiationLimits, times: int
) -> None:
    pair, wire = connected(limits)
    wire.damage(DATA[:600], times=times)
    first = pair.initiator.execute(0, write(0, DATA))
    second = pair.initiator.execute(0, read(0, 20))
    events = pair.run()
    assert wire.times == 0
    assert completed(events) == {first: "GOOD", second: "GOOD"}
    assert bytes(pair.disk.data[: len(DATA)]) == DATA
    if limits is IMMEDIATE:
        # The read came to its turn after the write, which was whole by then.
        assert pair.to_initiator.count(DATA) == 1
    assert pair.to_initiator.count(bytes([Opcode.REJECT, 0x80, 0x02, 0])) == times


def test_a_wire_that_damages_every_attempt_ends_the_session() -> None:
    pair, wire = connected(IMMEDIATE)
    wire.damage(DATA, times=100)
    pair.initiator.execute(0, write(0, DATA))
    (event,) = pair.run()
    assert isinstance(event, SessionClosed)
    assert "arrives damaged 4 times" in event.reason


@pytest.mark.parametrize("mark", [0, 3 * 1024, 19 * BLOCK], ids=["first", "middle", "last"])
def test_damaged_data_out_end_the_command_when_all_that_was_asked_for_is_there(mark: int) -> None:
    pair, wire = connected(SOLICITED)
    data = b"".join(number.to_bytes(4) for number in range(len(DATA) // 4))
    wire.damage(data[mark : mark + 100])
    first = pair.initiator.execute(0, write(0, data))
    second = pair.initiator.execute(0, TEST_UNIT_READY)
    answers = completed(pair.run())
    assert wire.times == 0
    assert "ABORTED COMMAND" in answers[first]
    assert "47h" in answers[first]
    assert answers[second] == "GOOD"
    assert not any(pair.disk.data)
    assert pair.target.open_commands == 0
    third = pair.initiator.execute(0, write(0, data))
    assert completed(pair.run()) == {third: "GOOD"}


def test_a_damaged_unsolicited_data_out_ends_the_command() -> None:
    pair, wire = connected(UNSOLICITED)
    data = b"".join(number.to_bytes(4) for number in range(len(DATA) // 4))
    wire.damage(data[2048:2100])
    tag = pair.initiator.execute(0, write(0, data))
    assert "47h" in completed(pair.run())[tag]
    assert not any(pair.disk.data)


def damage_header(pair: Pair, wire: Wire) -> None:
    # The Test Unit Ready's own header: opcode and flags, then reserved bytes.
    wire.damage(bytes([Opcode.SCSI_COMMAND, 0x81, 0, 0]), offset=20)
    pair.initiator.execute(0, TEST_UNIT_READY)


def damage_data_in(pair: Pair, wire: Wire) -> None:
    pair.disk.data[: len(DATA)] = DATA
    wire.damage(DATA)
    pair.initiator.execute(0, read(0, 20))


@pytest.mark.parametrize(
    ("damage", "words"),
    [(damage_header, "a header does not match"), (damage_data_in, "data that do not match")],
)
def test_what_cannot_be_asked_for_again_ends_the_session(
    damage: Callable[[Pair, Wire], None], words: str
) -> None:
    pair, wire = connected(IMMEDIATE)
    damage(pair, wire)
    pair.run()
    reasons = [
        event.reason
        for event in [*pair.target_events, *pair.initiator_events]
        if isinstance(event, Closed | SessionClosed)
    ]
    assert len(reasons) == 1
    assert words in reasons[0]
