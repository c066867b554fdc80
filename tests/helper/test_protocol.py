from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.helper.protocol import (
    CDB_LENGTH,
    DATA_LENGTH,
    SENSE_LENGTH,
    HelperProtocolError,
    HelperRequest,
    ServerProtocol,
    State,
)
from holdover.scsi.cdbs.cdb import PersistentReserveIn, PersistentReserveOut
from holdover.scsi.cdbs.opcodes import InServiceAction, OutServiceAction
from holdover.scsi.command import Command, Response
from holdover.scsi.status import Status

FEATURES = bytes(4)


def read_keys(length: int = 64) -> bytes:
    return PersistentReserveIn(InServiceAction.READ_KEYS, length).encode().ljust(CDB_LENGTH, b"\0")


def register(length: int = 24) -> bytes:
    return PersistentReserveOut(OutServiceAction.REGISTER, length).encode().ljust(CDB_LENGTH, b"\0")


def state_of(protocol: ServerProtocol) -> State:
    return protocol.state


def greeted() -> ServerProtocol:
    protocol = ServerProtocol()
    assert protocol.data_to_send() == FEATURES
    protocol.receive(FEATURES)
    return protocol


def test_the_helper_offers_no_feature_and_then_waits_for_a_cdb() -> None:
    protocol = ServerProtocol()
    assert state_of(protocol) is State.FEATURES
    assert protocol.wanted == 4
    assert protocol.data_to_send() == FEATURES
    assert protocol.data_to_send() == b""
    protocol.receive(FEATURES)
    assert state_of(protocol) is State.CDB
    assert protocol.wanted == CDB_LENGTH
    assert protocol.idle


@given(st.lists(st.integers(1, 24)))
def test_a_request_may_come_in_any_pieces(pieces: list[int]) -> None:
    protocol = greeted()
    data, at = register() + bytes(range(24)), 0
    for piece in [*pieces, *[40] * 2]:
        assert protocol.events_received() == []
        end = at + min(piece, protocol.wanted)
        protocol.receive(data[at:end], (5,) if at == 0 else ())
        at = end
        if at == len(data):
            break
    assert protocol.events_received() == [HelperRequest(Command(register(), bytes(range(24))), 5)]
    assert protocol.release() == ()


def test_persistent_reserve_in_is_answered_with_its_data() -> None:
    protocol = greeted()
    protocol.receive(read_keys(12), (9,))
    assert protocol.events_received() == [HelperRequest(Command(read_keys(12), data_in_length=12), 9)]
    assert state_of(protocol) is State.BUSY
    assert protocol.wanted == 0
    protocol.send_response(Response(Status.GOOD, b"0123456789abcdef"))
    reply = protocol.data_to_send()
    assert reply == bytes(4) + b"\0\0\0\x0c" + bytes(SENSE_LENGTH) + b"0123456789ab"
    assert state_of(protocol) is State.CDB


def test_an_error_has_sense_data_and_no_payload() -> None:
    protocol = greeted()
    protocol.receive(read_keys(), (9,))
    protocol.send_response(Response(Status.CHECK_CONDITION, b"some data", b"\x70" + bytes(17)))
    assert protocol.data_to_send() == b"\0\0\0\x02" + bytes(4) + b"\x70" + bytes(95)


@given(st.sampled_from(Status), st.binary(max_size=300), st.binary(max_size=300), st.integers(0, 200))
def test_a_reply_never_has_more_than_was_asked_for(
    status: Status, data: bytes, sense: bytes, length: int
) -> None:
    protocol = greeted()
    protocol.receive(read_keys(length), (9,))
    protocol.send_response(Response(status, data, sense))
    reply = protocol.data_to_send()
    payload = reply[8 + SENSE_LENGTH :]
    assert int.from_bytes(reply[:4], "big") == status
    assert int.from_bytes(reply[4:8], "big") == len(payload)
    assert payload == (data[:length] if status is Status.GOOD else b"")
    assert reply[8 : 8 + SENSE_LENGTH] == sense[:SENSE_LENGTH].ljust(SENSE_LENGTH, b"\0")


def test_persistent_reserve_out_has_no_payload_even_when_a_handler_gives_one() -> None:
    protocol = greeted()
    protocol.receive(read_keys(100), (9,))
    protocol.send_response(Response(Status.GOOD, bytes(100)))
    protocol.data_to_send()
    protocol.receive(register(4), (10,))
    protocol.receive(b"list")
    assert [event.descriptor for event in protocol.events_received()] == [9, 10]
    protocol.send_response(Response(Status.GOOD, b"what is this"))
    assert protocol.data_to_send() == bytes(8 + SENSE_LENGTH)


def test_an_empty_parameter_list_begins_at_once() -> None:
    protocol = greeted()
    protocol.receive(register(0), (3,))
    assert protocol.events_received() == [HelperRequest(Command(register(0)), 3)]


@pytest.mark.parametrize("cdb", [read_keys(DATA_LENGTH), register(DATA_LENGTH)])
def test_the_longest_lengths_pass(cdb: bytes) -> None:
    protocol = greeted()
    protocol.receive(cdb, (3,))
    if protocol.wanted:
        assert protocol.wanted == DATA_LENGTH
        protocol.receive(bytes(DATA_LENGTH))
    assert state_of(protocol) is State.BUSY


@pytest.mark.parametrize(
    ("data", "descriptors", "words"),
    [
        (read_keys(), (), "CDB without a descriptor"),
        (read_keys(), (4, 5), "2 descriptors"),
        (read_keys(DATA_LENGTH + 1), (4,), "allocation length 8193"),
        (register(DATA_LENGTH + 1), (4,), "parameter list length 8193"),
        (register(0xFFFFFFFF), (4,), "parameter list length 4294967295"),
        (b"\x12" + bytes(15), (4,), "operation code 12h"),
        (read_keys() + b"more", (4,), "20 bytes where 16"),
    ],
)
def test_a_request_that_breaks_the_protocol_is_named(
    data: bytes, descriptors: tuple[int, ...], words: str
) -> None:
    protocol = greeted()
    with pytest.raises(HelperProtocolError, match=words):
        protocol.receive(data, descriptors)
    assert state_of(protocol) is State.CLOSED
    assert protocol.events_received() == []
    assert protocol.release() == descriptors
    assert protocol.release() == ()


def test_features_that_there_are_not_are_refused() -> None:
    protocol = ServerProtocol()
    with pytest.raises(HelperProtocolError, match="features 00000001"):
        protocol.receive(b"\0\0\0\x01")


def test_a_descriptor_comes_with_a_cdb_alone() -> None:
    protocol = ServerProtocol()
    with pytest.raises(HelperProtocolError, match="without a CDB"):
        protocol.receive(b"\0", (4,))
    assert protocol.release() == (4,)
    protocol = greeted()
    protocol.receive(register(8), (4,))
    with pytest.raises(HelperProtocolError, match="without a CDB"):
        protocol.receive(b"\0", (5,))
    assert protocol.release() == (4, 5)


def test_one_descriptor_more_in_a_later_piece_is_one_too_many() -> None:
    protocol = greeted()
    protocol.receive(read_keys()[:8], (4,))
    with pytest.raises(HelperProtocolError, match="2 descriptors"):
        protocol.receive(read_keys()[8:], (5,))
    assert protocol.release() == (4, 5)


def test_data_while_a_command_is_under_way_breaks_the_protocol() -> None:
    protocol = greeted()
    protocol.receive(read_keys(), (4,))
    with pytest.raises(HelperProtocolError, match="1 bytes where 0"):
        protocol.receive(b"x")


def test_a_client_may_go_between_commands_or_while_one_is_carried_out() -> None:
    protocol = greeted()
    protocol.receive(b"")
    assert state_of(protocol) is State.CLOSED
    protocol = greeted()
    protocol.receive(read_keys(), (4,))
    protocol.receive(b"")
    assert protocol.release() == (4,)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "within features, 4 bytes"),
        (b"\0\0", "within features, 2 bytes"),
        (FEATURES + b"\x5e", "within cdb, 15 bytes"),
        (FEATURES + register(24) + b"abc", "within parameters, 21 bytes"),
    ],
)
def test_an_end_in_the_middle_is_named(data: bytes, words: str) -> None:
    protocol = ServerProtocol()
    while data:
        piece, data = data[: protocol.wanted], data[protocol.wanted :]
        protocol.receive(piece, (4,) if protocol.state is State.CDB and len(piece) == CDB_LENGTH else ())
    with pytest.raises(HelperProtocolError, match=words):
        protocol.receive(b"")


def test_nothing_comes_after_the_end() -> None:
    protocol = greeted()
    protocol.receive(b"")
    with pytest.raises(HelperProtocolError, match="after the end"):
        protocol.receive(b"x", (7,))
    assert protocol.release() == (7,)


def test_a_response_without_a_command_is_the_callers_mistake() -> None:
    with pytest.raises(RuntimeError):
        greeted().send_response(Response(Status.GOOD))


@given(
    st.lists(
        st.tuples(
            st.one_of(
                st.binary(max_size=20),
                st.builds(read_keys, st.integers(0, 0xFFFF)),
                st.builds(register, st.integers(0, 40)),
                st.just(FEATURES),
            ),
            st.integers(0, 3),
            st.booleans(),
        ),
        max_size=12,
    )
)
def test_any_bytes_and_descriptors_give_each_descriptor_back_once(
    reads: list[tuple[bytes, int, bool]],
) -> None:
    protocol = ServerProtocol()
    given_away, back = 0, []
    for data, count, answer in reads:
        descriptors = range(given_away, given_away + count)
        given_away += count
        try:
            protocol.receive(data, descriptors)
        except HelperProtocolError:
            assert state_of(protocol) is State.CLOSED
        back += [event.descriptor for event in protocol.events_received()]
        if answer and protocol.state is State.BUSY:
            protocol.send_response(Response(Status.GOOD))
    back += protocol.release()
    assert sorted(back) == list(range(given_away))
