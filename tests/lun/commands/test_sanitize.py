from __future__ import annotations

import pytest

from holdover.lun.commands.block import Geometry
from holdover.lun.commands.sanitize import SanitizeState, SanitizeWork, sanitize
from holdover.scsi.block import OverwriteParameters
from holdover.scsi.cdbs.cdb import Sanitize
from holdover.scsi.cdbs.opcodes import SanitizeServiceAction as Action
from holdover.scsi.command import Response
from holdover.scsi.sense import AdditionalSense, SenseKey
from tests.lun.support import MemoryMedium, disk_full, illegal, sense_of

GEOMETRY = Geometry(blocks=64)
SIZE = 64 * 512
BAD_CDB = illegal(AdditionalSense.INVALID_FIELD_IN_CDB)
BAD_LIST = illegal(AdditionalSense.INVALID_FIELD_IN_PARAMETER_LIST)
BAD_LENGTH = illegal(AdditionalSense.PARAMETER_LIST_LENGTH_ERROR)


def ask(cdb: Sanitize, data: bytes = b"") -> Response | SanitizeWork | SanitizeState:
    return sanitize(cdb, data, GEOMETRY, SanitizeState())


def overwrite(parameters: OverwriteParameters) -> Response | SanitizeWork | SanitizeState:
    data = parameters.encode()
    return ask(Sanitize(Action.OVERWRITE, len(data)), data)


def refusal(answer: Response | SanitizeWork | SanitizeState) -> tuple[SenseKey, int]:
    assert isinstance(answer, Response)
    return sense_of(answer)


def run(answer: Response | SanitizeWork | SanitizeState) -> bytes:
    assert isinstance(answer, SanitizeWork)
    medium = MemoryMedium()
    medium.write(0, b"x" * SIZE)
    assert answer.run(medium).good
    assert medium.flushed == medium.data
    return medium.flushed


@pytest.mark.parametrize("action", [Action.BLOCK_ERASE, Action.CRYPTOGRAPHIC_ERASE])
def test_erase(action: Action) -> None:
    work = ask(Sanitize(action, immed=True, ause=True))
    assert work == SanitizeWork(SIZE, immed=True, ause=True)
    assert run(work) == bytes(SIZE)
    assert refusal(ask(Sanitize(action, 8), bytes(8))) == BAD_CDB


@pytest.mark.parametrize(
    ("pattern", "block"),
    [(b"a" * 512, b"a" * 512), (b"ab", b"ab" * 256), (b"abc", b"abc" * 170 + b"ab"), (b"a", b"a" * 512)],
)
def test_overwrite(pattern: bytes, block: bytes) -> None:
    assert run(overwrite(OverwriteParameters(pattern))) == block * 64


@pytest.mark.parametrize(("count", "last"), [(1, 0x0F), (2, 0x0F), (3, 0x0F)])
def test_passes_end_with_the_pattern_as_it_is(count: int, last: int) -> None:
    assert run(overwrite(OverwriteParameters(b"\x0f", count, invert=True))) == bytes([last]) * SIZE


def test_every_second_pass_is_inverted() -> None:
    written = []

    class Watched(MemoryMedium):
        def write(self, offset: int, data: bytes) -> None:
            written.append((offset, data[:1], len(data)))
            super().write(offset, data)

    work = overwrite(OverwriteParameters(b"\x0f", 3, invert=True))
    assert isinstance(work, SanitizeWork)
    assert work.run(Watched()).good
    assert written == [(0, b"\x0f", SIZE), (0, b"\xf0", SIZE), (0, b"\x0f", SIZE)]
    assert work.progress == 0x10000 * 2 // 3


@pytest.mark.parametrize("length", [0, 1, 4, 517, 520])
def test_a_list_of_a_length_that_there_is_not(length: int) -> None:
    assert refusal(ask(Sanitize(Action.OVERWRITE, length), bytes(length))) == BAD_CDB


@pytest.mark.parametrize(
    "parameters",
    [
        OverwriteParameters(b"a", count=0),
        OverwriteParameters(b"a", test=1),
    ],
)
def test_a_list_that_is_refused(parameters: OverwriteParameters) -> None:
    assert refusal(overwrite(parameters)) == BAD_LIST


def test_a_list_that_contradicts_itself() -> None:
    data = OverwriteParameters(b"a" * 8).encode()
    assert refusal(ask(Sanitize(Action.OVERWRITE, 12), data[:11])) == BAD_LENGTH
    assert refusal(ask(Sanitize(Action.OVERWRITE, 11), data)) == BAD_LIST
    assert refusal(ask(Sanitize(Action.OVERWRITE, 12), b"\1\0\0\0" + data[4:])) == BAD_LIST


@pytest.mark.parametrize("action", [0x00, 0x04, 0x1E])
def test_a_service_action_that_there_is_not(action: int) -> None:
    assert refusal(ask(Sanitize(action))) == BAD_CDB


def test_exit_failure_mode() -> None:
    leave = Sanitize(Action.EXIT_FAILURE_MODE)
    assert ask(leave) == SanitizeState()
    forgivable = SanitizeState(failed=True, forgivable=True)
    assert sanitize(leave, b"", GEOMETRY, forgivable) == SanitizeState()
    assert refusal(sanitize(leave, b"", GEOMETRY, SanitizeState(failed=True))) == BAD_CDB
    assert refusal(ask(Sanitize(Action.EXIT_FAILURE_MODE, 8), bytes(8))) == BAD_CDB


def test_a_medium_that_fails() -> None:
    medium = MemoryMedium()
    medium.failure = disk_full()
    for work in (SanitizeWork(SIZE), SanitizeWork(SIZE, b"a" * 512)):
        assert work.exclusive
        assert work.span == (0, SIZE)
        assert not work.run(medium).good
