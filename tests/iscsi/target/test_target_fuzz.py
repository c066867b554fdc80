"""A hundred thousand broken inputs: none stops a target's session, none makes it keep more than its bound.

What a session may keep is stated by `bound`. Mutations are of valid PDUs, in the midst of a session that goes
on being used: as long as it is open it must still answer.
"""

from __future__ import annotations

import gc
import random
import tracemalloc
from collections.abc import Iterator

import pytest

from holdover.iscsi.digest import Digest, add_digests
from holdover.iscsi.negotiation import NegotiationLimits
from holdover.iscsi.numbers import NO_TAG, TaskManagementFunction, TaskManagementResponse
from holdover.iscsi.pdu import Pdu
from holdover.iscsi.requests import (
    DataOut,
    LoginRequest,
    LogoutRequest,
    NopOut,
    ScsiCommand,
    TaskManagementRequest,
    TextRequest,
)
from holdover.iscsi.target.events import CommandReceived, LoginCompleted, TaskManagementReceived
from holdover.iscsi.target.protocol.login import TargetConfig
from holdover.iscsi.target.protocol.session import TargetSession
from holdover.iscsi.text import MAX_TEXT, encode_text
from holdover.scsi.command import Response
from holdover.scsi.status import Status
from tests.iscsi.pair import INITIATOR, ISID, TARGET, entropy
from tests.rig.amounts import amount

FRESH = amount(6_000, 30_000)
MUTATED = amount(16_000, 80_000)
SHARDS = 4

SEGMENT, FIRST_BURST, MAX_COMMANDS, MAX_IMMEDIATE, MAX_BUFFERED = 2048, 4096, 8, 4, 65536
CONFIG = TargetConfig(
    TARGET,
    limits=NegotiationLimits(False, True, SEGMENT, 8192, FIRST_BURST, 4),
    max_commands=MAX_COMMANDS,
    max_immediate=MAX_IMMEDIATE,
    max_data_out=32768,
    max_buffered=MAX_BUFFERED,
)


def bound() -> int:
    """Bytes that one session may keep, with room for the objects around them."""
    unsolicited = (MAX_COMMANDS + MAX_IMMEDIATE) * FIRST_BURST
    texts = 2 * MAX_TEXT + 64 * 1024
    objects = 64 * 1024
    return unsolicited + MAX_BUFFERED + 2 * SEGMENT + texts + objects


def encoded(pdu: Pdu, header: Digest = Digest.NONE, data: Digest = Digest.NONE) -> bytes:
    return b"".join(add_digests(pdu.encode(), header, data))


def login(source: random.Random) -> LoginRequest:
    said = {"InitiatorName": INITIATOR, "TargetName": TARGET, "MaxRecvDataSegmentLength": "8192"}
    said |= {"InitialR2T": "No", "MaxOutstandingR2T": "4", "FirstBurstLength": "4096"}
    if source.random() < 0.3:
        said |= {"HeaderDigest": "CRC32C,None", "DataDigest": "CRC32C,None"}
    return LoginRequest(0, ISID, 0, 1, 3, True, encode_text(said.items()), cmd_sn=1)


def random_bytes(source: random.Random) -> bytes:
    """The first bytes of a connection: noise, noise with a length that is believable, a login with noise."""
    kind = source.randrange(4)
    noise = source.randbytes(source.choice([1, 47, 48, 49, 200, 1000, 5000]))
    if kind == 0:
        return noise
    if kind == 1:
        head = bytearray(source.randbytes(48))
        head[0] = source.choice([0x03, 0x43, 0x00, 0x01, 0x04])
        head[4:8] = source.randrange(600).to_bytes(4)
        return bytes(head) + noise
    if kind == 2:
        text = b"\0".join(source.randbytes(source.randrange(20)) for _ in range(5))
        return encoded(LoginRequest(0, ISID, 0, 1, 3, True, text, cmd_sn=1)) + noise
    return encoded(login(source)) + noise


class Host:
    """A session that is used, with what an initiator knows of it."""

    def __init__(self, source: random.Random) -> None:
        self.source = source
        self.session = TargetSession(CONFIG, ("host:3260",), entropy)
        self.session.receive_data(encoded(login(source)))
        self.serve()
        assert not self.session.closed

    def feed(self, data: bytes) -> None:
        at = 0
        while at < len(data) and not self.session.closed:
            length = self.source.choice([48, 1000, 100000])
            self.session.receive_data(data[at : at + length])
            self.serve()
            at += length

    def answers(self) -> bool:
        """Whether a ping comes back."""
        ping = NopOut(0x50494E47, NO_TAG, 0, data=b"are you there", immediate=True)
        parameters = self.session.parameters
        self.session.receive_data(encoded(ping, parameters.header_digest, parameters.data_digest))
        return b"are you there" in b"".join(self.session.data_to_send())

    def serve(self) -> None:
        """What the shell of a target does; some commands it leaves unanswered."""
        session = self.session
        for event in session.events_received():
            if isinstance(event, LoginCompleted):
                session.admit(1)
            elif isinstance(event, CommandReceived) and self.source.random() < 0.9:
                data = bytes(min(event.command.data_in_length, 3000))
                session.respond(event.tag, Response(Status.GOOD, data))
            elif isinstance(event, TaskManagementReceived):
                session.answer_task_management(event.tag, TaskManagementResponse.FUNCTION_COMPLETE)
        session.data_to_send()

    def valid(self) -> Pdu:
        """Any PDU that an initiator may send now, or might have in another order."""
        source, sn = self.source, self.session.numbers.exp_cmd_sn
        tag = source.choice([1, 2, 3, source.randrange(1 << 32)])
        data = bytes(source.choice([0, 1, 512, 2048]))
        immediate = source.random() < 0.3
        kind = source.randrange(12)
        if kind < 5:
            write = source.random() < 0.5
            length = source.choice([512, 4096, 20000, 32768])
            return ScsiCommand(
                tag,
                0,
                source.randbytes(16),
                length,
                sn + source.choice([0, 0, 0, 1, 3]),
                read=not write,
                write=write,
                final=source.random() < 0.7,
                immediate=immediate,
                data=data if write else b"",
            )
        if kind < 8:
            transfer = source.choice([NO_TAG, source.randrange(40)])
            return DataOut(
                tag, transfer, 0, source.randrange(3), source.choice([0, 512, 2048]), data, kind == 7
            )
        if kind == 8:
            function = source.choice(list(TaskManagementFunction))
            return TaskManagementRequest(tag, function, 0, 1, sn, ref_cmd_sn=sn - 1, immediate=immediate)
        if kind == 9:
            text = encode_text([("SendTargets", ""), ("MaxRecvDataSegmentLength", "4096")])
            return TextRequest(tag, NO_TAG, sn, text, immediate=immediate)
        if kind == 10 and source.random() < 0.02:
            return LogoutRequest(tag, 0, sn, 0)
        return NopOut(tag, NO_TAG, sn, data=data, immediate=immediate)

    def mutated(self) -> bytes:
        """A valid PDU with the digests that were agreed, damaged at random places or whole."""
        parameters = self.session.parameters
        pdu = self.valid()
        if self.source.random() < 0.5:
            # Damage that the digests do not tell: the sender itself is wrong.
            head, *rest = pdu.encode()
            return b"".join(
                add_digests([self._damaged(head), *rest], parameters.header_digest, parameters.data_digest)
            )
        return self._damaged(encoded(pdu, parameters.header_digest, parameters.data_digest))

    def _damaged(self, data: bytes | memoryview) -> bytes:
        source, damaged = self.source, bytearray(data)
        for _ in range(source.choice([0, 1, 1, 2, 8])):
            at = source.randrange(len(damaged))
            # Most of it in fields whose damage does not end the session at once.
            if source.random() < 0.8:
                at = source.choice([1, 2, 3, 8, 9, *range(16, 48)])
            damaged[at] = source.choice([0, 0xFF, damaged[at] ^ 1 << source.randrange(8)])
        return bytes(damaged)


class Meter:
    """Watches what is kept beyond what was there when it was made."""

    def __init__(self) -> None:
        gc.collect()
        self._before = tracemalloc.get_traced_memory()[0]
        self.most = 0

    def look(self) -> None:
        self.most = max(self.most, tracemalloc.get_traced_memory()[0] - self._before)


@pytest.fixture(autouse=True)
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.parametrize("shard", range(SHARDS))
def test_random_bytes_on_a_fresh_connection(shard: int) -> None:
    source = random.Random(shard)
    meter, got_in = Meter(), 0
    for _ in range(FRESH // SHARDS):
        session = TargetSession(CONFIG, ("host:3260",), entropy)
        session.receive_data(random_bytes(source))
        for event in session.events_received():
            if isinstance(event, LoginCompleted):
                session.admit(1)
                got_in += 1
        session.receive_data(source.randbytes(100))
        session.events_received()
        session.data_to_send()
        meter.look()
    assert meter.most < bound()
    # Some of it must have come as far as a login, or this tests too little.
    assert got_in > FRESH // SHARDS // 10


@pytest.mark.parametrize("shard", range(SHARDS))
def test_mutations_of_valid_pdus_in_a_session(shard: int) -> None:
    source = random.Random(100 + shard)
    meter, host = Meter(), Host(source)
    sessions, asked, answered = 1, 0, 0
    for number in range(MUTATED // SHARDS):
        host.feed(host.mutated())
        meter.look()
        assert host.session.open_commands <= 3 * MAX_COMMANDS + MAX_IMMEDIATE
        if number % 16 == 0 and not host.session.closed:
            asked += 1
            answered += host.answers()
        if host.session.closed:
            host = Host(source)
            sessions += 1
    assert meter.most < bound()
    # A session must live long enough to have something to keep, and still be of use.
    assert MUTATED // SHARDS / sessions > 10
    assert answered > asked * 0.9


def test_an_initiator_that_sends_all_it_can_and_finishes_nothing() -> None:
    meter, host = Meter(), Host(random.Random(1))
    parameters = host.session.parameters
    for immediate in (False, True):
        for number in range(300):
            tag = number + 1000 * immediate
            # The request before these never comes, so all of them wait.
            command = ScsiCommand(
                tag,
                0,
                bytes(16),
                32768,
                3 + number,
                write=True,
                final=False,
                immediate=immediate,
                data=bytes(SEGMENT),
            )
            rest = DataOut(tag, NO_TAG, 0, 0, SEGMENT, bytes(FIRST_BURST - SEGMENT), False)
            for pdu in (command, rest):
                host.session.receive_data(encoded(pdu, parameters.header_digest, parameters.data_digest))
            host.session.data_to_send()
            meter.look()
    assert not host.session.closed
    assert host.answers()
    # As many as may be open, each with its unsolicited data: the measure sees them, and no more are kept.
    assert (MAX_COMMANDS - 1 + MAX_IMMEDIATE) * FIRST_BURST <= meter.most < bound()
