"""Faults as text, and the commands that they fit."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.faults.fault import Effect, Fault, FaultError, When, parse_fault
from holdover.scsi.cdbs.opcodes import OperationCode, OutServiceAction
from holdover.scsi.command import Command
from holdover.scsi.nexus import ITNexus
from holdover.scsi.reservation.reservation_out import out_command
from holdover.scsi.reservation.transport_id import FcTransportID, IscsiTransportID
from holdover.scsi.status import Status
from tests.faults.strategies import faults

NEXUS = ITNexus(IscsiTransportID("iqn.2026-11.org.example:db1", bytes(6)))
WRITE_10 = Command(bytes.fromhex("2a000000000000000100"), b"w" * 512)


@given(faults())
def test_a_fault_is_read_back_from_its_text(fault: Fault) -> None:
    assert parse_fault(str(fault)) == fault


_KEYS = ("latency", "status", "when", "opcode", "action", "lun", "probability", "count", "after", "initiator")
_VALUES = ("busy", "before", "READ_10", "PREEMPT", "20ms", "0x5f", "0", "1", "0.5", "nan", "1e999", "")
_WORDS = st.sampled_from(("lose-response", "drop-connection", "power-loss")) | st.builds(
    "{}={}".format, st.sampled_from(_KEYS), st.sampled_from(_VALUES) | st.text(string.printable, max_size=4)
)


@given(st.lists(_WORDS, max_size=6).map(",".join) | st.text())
def test_any_text_is_a_fault_or_refused_in_words(text: str) -> None:
    try:
        fault = parse_fault(text)
    except FaultError as error:
        problem = str(error)
    else:
        problem = ""
        assert parse_fault(str(fault)) == fault
    assert not problem or repr(text) in problem


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "latency=20ms,opcode=WRITE_10,probability=0.1",
            Fault(Effect.LATENCY, 20_000, opcodes=(0x2A,), probability=0.1),
        ),
        ("latency=3599999999us", Fault(Effect.LATENCY, 3_599_999_999)),
        ("latency=1.5s,when=after", Fault(Effect.LATENCY, 1_500_000, when=When.AFTER)),
        ("lose-response", Fault(Effect.LOSE_RESPONSE)),
        ("status=task-set-full,count=3", Fault(Effect.STATUS, status=Status.TASK_SET_FULL, count=3)),
        (
            "drop-connection,when=after,action=preempt-and-abort",
            Fault(Effect.DROP_CONNECTION, when=When.AFTER, actions=(OutServiceAction.PREEMPT_AND_ABORT,)),
        ),
        ("power-loss", Fault(Effect.POWER_LOSS, count=1)),
        ("power-loss,count=2,after=5", Fault(Effect.POWER_LOSS, count=2, after=5)),
        (
            "status=busy,opcode=0x28,opcode=read_16,lun=0,lun=7,initiator=IQN.*:db?",
            Fault(
                Effect.STATUS,
                status=Status.BUSY,
                opcodes=(0x28, 0x88),
                luns=(0, 7),
                initiators=("iqn.*:db?",),
            ),
        ),
        ("latency=1ms,lose-response", Fault(Effect.LOSE_RESPONSE, 1000)),
    ],
)
def test_what_people_write(text: str, fault: Fault) -> None:
    assert parse_fault(text) == fault


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "unknown word ''"),
        ("colour=red,lose-response", "unknown word 'colour'; the words are lose-response"),
        ("opcode=WRITE_10", "the effect is missing: add latency="),
        ("lose-response,drop-connection", "lose-response and drop-connection cannot both happen"),
        ("lose-response,status=busy", "lose-response and status cannot both happen"),
        ("lose-response=yes", "lose-response takes no value"),
        ("latency", "latency needs a value"),
        ("latency=20", "latency=20 is not a number followed by us, ms or s"),
        ("latency=2h", "latency=2h is not a number followed by"),
        ("latency=0ms", "latency=0ms is not between 1us and 3600s"),
        ("latency=3601s", "latency=3601s is not between"),
        ("latency=1s,latency=2s", "latency is given twice"),
        ("status=good", "status=good is not one of busy, reservation-conflict, task-set-full"),
        ("status=busy,when=before", "when: has no meaning with status"),
        ("lose-response,when=after", "when: has no meaning with lose-response"),
        ("drop-connection,when=noon", "when=noon is not one of before, after"),
        (
            "lose-response,opcode=SCRUB",
            "opcode=SCRUB is not an operation code: give a name such as TEST_UNIT_READY",
        ),
        ("lose-response,opcode=0x100", "opcode=0x100 is not an operation code"),
        ("lose-response,opcode=42", "opcode=42 is not an operation code"),
        ("lose-response,opcode=REPORT_LUNS", "is answered for all LUNs together"),
        ("lose-response,action=STEAL", "action=STEAL is not a service action of PERSISTENT RESERVE OUT"),
        ("lose-response,action=0x20", "action=0x20 is above 0x1f"),
        ("lose-response,action=CLEAR,opcode=READ_10", "action: is only for PERSISTENT_RESERVE_OUT"),
        ("lose-response,lun=16384", "lun=16384 is not a number from 0 to 16383"),
        ("lose-response,probability=0", "probability=0 is not a number above 0 and up to 1"),
        ("lose-response,probability=1.01", "probability=1.01 is not"),
        ("lose-response,probability=nan", "probability=nan is not"),
        ("lose-response,count=0", "count=0 is not a number from 1"),
        ("lose-response,after=-1", "after=-1 is not a number from 0"),
    ],
)
def test_what_cannot_be_is_named(text: str, problem: str) -> None:
    with pytest.raises(FaultError) as refused:
        parse_fault(text)
    assert problem in str(refused.value)
    assert repr(text) in str(refused.value)


def test_which_commands_a_fault_fits() -> None:
    preempt = out_command(OutServiceAction.PREEMPT, 1, 2)
    release = out_command(OutServiceAction.RELEASE, 1)

    def fits(text: str, command: Command, lun: int = 0, nexus: ITNexus = NEXUS) -> bool:
        return parse_fault(f"lose-response,{text}").fits(lun, nexus, command)

    assert parse_fault("lose-response").fits(9, NEXUS, Command(b""))
    assert fits("opcode=WRITE_10", WRITE_10)
    assert not fits("opcode=READ_10", WRITE_10)
    assert fits("opcode=READ_10,opcode=WRITE_10", WRITE_10)
    assert fits("action=PREEMPT", preempt)
    assert fits("action=PREEMPT,opcode=PERSISTENT_RESERVE_OUT", preempt)
    assert not fits("action=PREEMPT", release)
    assert not fits("action=REGISTER", Command(bytes(10))), "an action of another command"
    assert not fits("action=REGISTER", Command(bytes([OperationCode.PERSISTENT_RESERVE_OUT])))
    assert fits("lun=7", WRITE_10, lun=7)
    assert not fits("lun=7", WRITE_10, lun=0)
    assert fits("initiator=*:DB?", WRITE_10)
    assert not fits("initiator=*:db", WRITE_10)
    assert fits("initiator=fc *", WRITE_10, nexus=ITNexus(FcTransportID(bytes(8))))
