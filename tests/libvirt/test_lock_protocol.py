"""The codec of libvirt's lock protocol, and both ends of a connection."""

from __future__ import annotations

import struct
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.libvirt.connection import Call, LockClient, LockConnection, LockProtocolError, LockReply
from holdover.libvirt.lock_protocol import (
    LARGEST_CALL,
    PROGRAM,
    STRING_MAX,
    AcquireResource,
    CreateLockspace,
    CreateResource,
    DeleteResource,
    Header,
    MessageType,
    New,
    Procedure,
    Register,
    ReleaseResource,
    Request,
    Restrict,
    decode_error,
    decode_request,
    encode_call,
    encode_reply,
)
from holdover.libvirt.xdr import XdrError, XdrReader, pack_string

UUID = uuid.UUID("c7a5fdbd-edaf-9455-926a-d65c16db1809")
DB1 = Register(UUID, "db1", 3, 4711)

uints = st.integers(0, 2**32 - 1)
texts = st.text(max_size=60)
requests: st.SearchStrategy[Request] = st.one_of(
    st.builds(Register, st.uuids(), texts, uints, uints, uints),
    st.builds(Restrict, uints),
    st.builds(New, texts, uints),
    st.builds(CreateLockspace, texts),
    *(
        st.builds(kind, texts, texts, uints)
        for kind in (CreateResource, DeleteResource, AcquireResource, ReleaseResource)
    ),
)


def test_a_register_call_has_the_bytes_that_libvirt_sends() -> None:
    # length; program, version, procedure, type, serial, status; uuid; name; id; pid; flags
    expected = (
        struct.pack(">I6I", 64, 0xEA7BEEF, 1, 1, 0, 7, 0)
        + UUID.bytes
        + struct.pack(">I4sIII", 3, b"db1", 3, 4711, 0)
    )
    assert encode_call(7, DB1) == expected


def test_a_yes_is_a_header_alone_and_an_error_carries_its_text_twice() -> None:
    call = Header(Procedure.ACQUIRE, MessageType.CALL, 9)
    assert encode_reply(call) == struct.pack(">I6I", 28, 0xEA7BEEF, 1, 6, 1, 9, 0)
    no = encode_reply(call, "no")
    assert no[:28] == struct.pack(">I6I", len(no), 0xEA7BEEF, 1, 6, 1, 9, 1)
    # code 9 in domain 42, the text, level 2, no domain, the text as str1, five times nothing
    body = struct.pack(">II II4s I I II4s 5I", 9, 42, 1, 2, b"no", 2, 0, 1, 2, b"no", 0, 0, 0, 0, 0)
    assert no[28:] == body


@given(requests)
def test_every_request_comes_back_as_it_was_sent(request: Request) -> None:
    message = encode_call(1, request)
    assert len(message) <= LARGEST_CALL
    assert decode_request(Header.decode(message[4:]).procedure, message[28:]) == request


@given(texts.filter(bool))
def test_an_error_comes_back_with_its_text(text: str) -> None:
    call = Header(Procedure.REGISTER, MessageType.CALL, 1)
    assert decode_error(encode_reply(call, text)[28:]) == text


@given(st.sampled_from(list(Procedure)), st.binary(max_size=200))
def test_any_body_is_a_request_or_an_error(procedure: Procedure, body: bytes) -> None:
    try:
        decode_request(procedure, body)
    except XdrError:
        return


@given(requests, st.data())
def test_a_body_that_is_cut_short_is_an_error(request: Request, data: st.DataObject) -> None:
    message = encode_call(1, request)
    body = message[28:]
    cut = data.draw(st.integers(0, len(body) - 1))
    with pytest.raises(XdrError):
        decode_request(Header.decode(message[4:]).procedure, body[:cut])


def test_a_string_is_no_longer_than_the_protocol_allows() -> None:
    assert XdrReader(pack_string("x" * STRING_MAX)).string(STRING_MAX) == "x" * STRING_MAX
    with pytest.raises(XdrError, match="65537"):
        XdrReader(pack_string("x" * (STRING_MAX + 1))).string(STRING_MAX)
    # a length that is only claimed takes no memory
    with pytest.raises(XdrError, match="4294967295"):
        XdrReader(b"\xff\xff\xff\xff").string(STRING_MAX)


# -- a connection ------------------------------------------------------------------------------------


@given(st.lists(requests, max_size=6), st.data())
def test_calls_do_not_depend_on_how_the_bytes_arrive(asked: list[Request], data: st.DataObject) -> None:
    stream = b"".join(encode_call(number, each) for number, each in enumerate(asked))
    whole = LockConnection().receive(stream)
    connection, pieces, rest = LockConnection(), [], stream
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        pieces += connection.receive(rest[:size])
        rest = rest[size:]
    assert pieces == whole
    assert [call.request for call in whole] == asked


@given(st.lists(requests, max_size=8))
def test_nothing_is_in_order_before_register_or_after_restrict(asked: list[Request]) -> None:
    connection = LockConnection()
    owner: Register | None = None
    restricted = False
    for number, request in enumerate(asked):
        (call,) = connection.receive(encode_call(number, request))
        if restricted:
            fine = False
        elif isinstance(request, Register):
            fine = owner is None
        else:
            fine = owner is not None or isinstance(request, CreateLockspace)
        assert bool(call.problem) is not fine
        if fine and isinstance(request, Register):
            owner = request
        restricted = restricted or (fine and isinstance(request, Restrict))
        assert call.owner == owner


def test_a_call_that_cannot_be_read_is_refused_and_the_next_one_is_served() -> None:
    connection = LockConnection()
    broken = encode_call(1, DB1)[:-4]
    broken = struct.pack(">I", len(broken)) + broken[4:]
    unknown = struct.pack(">I6I", 28, PROGRAM, 1, 99, 0, 2, 0)
    other = struct.pack(">I6I", 28, 0x20008086, 1, 1, 0, 3, 0)
    calls = connection.receive(broken + unknown + other + encode_call(4, DB1))
    assert [call.header.serial for call in calls] == [1, 2, 3, 4]
    assert [bool(call.problem) for call in calls] == [True, True, True, False]
    assert "99" in calls[1].problem
    assert "0x20008086" in calls[2].problem
    assert calls[3] == Call(Header(Procedure.REGISTER, MessageType.CALL, 4), DB1, DB1)


@pytest.mark.parametrize("length", [0, 4, 27, LARGEST_CALL + 1, 0xFFFFFFFF])
def test_a_length_that_no_call_has_ends_the_connection(length: int) -> None:
    with pytest.raises(LockProtocolError, match=str(length)):
        LockConnection().receive(struct.pack(">I", length))


@pytest.mark.parametrize("kind", [1, 2, 3, 4, 5, 77])
def test_what_is_no_call_ends_the_connection(kind: int) -> None:
    with pytest.raises(LockProtocolError, match=str(kind)):
        LockConnection().receive(struct.pack(">I6I", 28, PROGRAM, 1, 1, kind, 1, 0))


@given(st.lists(st.binary(max_size=300), max_size=5))
def test_any_bytes_are_calls_or_end_the_connection(pieces: list[bytes]) -> None:
    connection = LockConnection()
    try:
        for piece in pieces:
            connection.receive(piece)
    except LockProtocolError:
        return


@given(requests, st.data())
def test_a_call_with_changed_bytes_is_answered_or_ends_the_connection(
    request: Request, data: st.DataObject
) -> None:
    message = bytearray(encode_call(1, request))
    for _ in range(data.draw(st.integers(1, 4))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    connection, client = LockConnection(), LockClient()
    try:
        calls = connection.receive(bytes(message))
    except LockProtocolError:
        return
    for call in calls:
        reply = call.reply(call.problem)
        assert len(reply) >= 28
        if call.header.program == PROGRAM and call.header.version == 1:
            assert client.receive(reply) == [LockReply(call.header.serial, call.problem)]


def test_a_client_counts_its_calls_and_reads_what_is_answered() -> None:
    client, connection = LockClient(), LockConnection()
    (register,) = connection.receive(client.call(DB1))
    (acquire,) = connection.receive(client.call(AcquireResource("/var/lib/x", "disk")))
    assert client.receive(register.reply() + acquire.reply("db1 runs on b")) == [
        LockReply(1),
        LockReply(2, "db1 runs on b"),
    ]


@pytest.mark.parametrize("reply", [encode_call(1, DB1), struct.pack(">I6I", 28, 1, 1, 1, 1, 1, 0)])
def test_a_client_takes_no_other_program_for_a_lock_manager(reply: bytes) -> None:
    with pytest.raises(LockProtocolError):
        LockClient().receive(reply)


def test_an_error_that_says_nothing_is_still_an_error() -> None:
    client = LockClient()
    header = Header(Procedure.REGISTER, MessageType.REPLY, 1, 1).encode()
    silent = header + struct.pack(">3I", 9, 42, 0)
    assert client.receive(struct.pack(">I", 4 + len(silent)) + silent)[0].error
    with pytest.raises(LockProtocolError):
        client.receive(struct.pack(">I", 28) + header)
