"""A guest's disk through the agent's export: the front end, with any bytes and with a LUN that goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdover.config.agent_file import ExportsConfig
from holdover.scsi.cdbs.opcodes import InServiceAction, OperationCode, OutServiceAction, ReservationType
from holdover.scsi.command import Command, Response
from holdover.scsi.path import PathError
from holdover.scsi.reservation.key import key_text
from holdover.scsi.reservation.reservation_in import Capabilities
from holdover.scsi.reservation.reservation_out import in_command, out_command
from holdover.scsi.sense import AdditionalSense, SenseKey, decode_sense
from holdover.scsi.status import Status
from tests.agent.hosts import GUEST, KEY, READ, WRITE, Initiator, san
from tests.rig.amounts import amount


class FrontEnd:
    """One agent with a guest, and an event loop that stays for many examples."""

    def __init__(self, folder: Path) -> None:
        self.runner = asyncio.Runner()
        self._context = san(folder, hosts=("host-a",), migrate_pr=("on",))
        self.set_up = self.runner.run(self._context.__aenter__())
        self.guest: Initiator = self.set_up.guest_on("host-a")

    def settle(self) -> None:
        """Release what random bytes may have reserved (RESERVE(6), which shuts PERSISTENT RESERVE out)."""
        self.tell(Command(bytes([OperationCode.RELEASE_6, 0, 0, 0, 0, 0])))

    def tell(self, command: Command) -> Response:
        return self.runner.run(self.guest.tell(command))

    def close(self) -> None:
        self.runner.run(self._context.__aexit__(None, None, None))
        self.runner.close()


@pytest.fixture(scope="module")
def front_end(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FrontEnd]:
    opened = FrontEnd(tmp_path_factory.mktemp("front_end"))
    yield opened
    opened.close()


def _reserve_out(action: int, tail: bytes, length: int, data: bytes) -> Command:
    cdb = (
        bytes([OperationCode.PERSISTENT_RESERVE_OUT, action, *tail[:3]])
        + length.to_bytes(4, "big")
        + tail[3:4]
    )
    return Command(cdb, data)


def _reserve_in(action: int, length: int) -> Command:
    cdb = (
        bytes([OperationCode.PERSISTENT_RESERVE_IN, action, 0, 0, 0, 0, 0])
        + length.to_bytes(2, "big")
        + b"\0"
    )
    return Command(cdb, data_in_length=length)


_OPCODES = [*OperationCode, 0xFF, 0xC0]
_ANY = st.builds(
    lambda opcode, rest, data, length: Command(bytes([opcode]) + rest, data, 0 if data else length),
    st.one_of(st.sampled_from(_OPCODES), st.integers(0, 255)),
    st.binary(min_size=5, max_size=15),
    st.binary(max_size=64),
    st.integers(0, 4096),
)
_OUT = st.builds(
    _reserve_out,
    st.integers(0, 31),
    st.binary(min_size=4, max_size=4),
    st.one_of(st.integers(0, 64), st.just(8), st.just(24), st.just(0xFFFFFFFF)),
    st.binary(max_size=64),
)
_IN = st.builds(_reserve_in, st.integers(0, 31), st.one_of(st.integers(0, 24), st.integers(0, 65535)))


@settings(max_examples=amount(1_500, 10_000), deadline=None, suppress_health_check=list(HealthCheck))
@given(command=st.one_of(_ANY, _OUT, _IN))
def test_any_bytes_get_an_answer_and_the_agent_lives(front_end: FrontEnd, command: Command) -> None:
    response = front_end.tell(command)
    assert isinstance(response.status, Status)
    if response.status is Status.CHECK_CONDITION:
        assert decode_sense(response.sense).key is not SenseKey.NO_SENSE
    assert len(response.data_in) <= command.data_in_length


def test_every_allocation_length_from_0_to_24(front_end: FrontEnd) -> None:
    front_end.settle()
    for action in InServiceAction:
        whole = front_end.tell(_reserve_in(action, 24))
        for length in range(25):
            response = front_end.tell(_reserve_in(action, length))
            assert response.good
            assert response.data_in == whole.data_in[:length]


def test_eight_bytes_of_parameters_are_refused_by_length(front_end: FrontEnd) -> None:
    front_end.settle()
    for action in OutServiceAction:
        for length in (0, 1, 8, 16, 23):
            response = front_end.tell(_reserve_out(action, bytes(4), length, bytes(length)))
            assert response.status is Status.CHECK_CONDITION
            move = action is OutServiceAction.REGISTER_AND_MOVE
            expected = (
                AdditionalSense.INVALID_FIELD_IN_CDB if move else AdditionalSense.PARAMETER_LIST_LENGTH_ERROR
            )
            assert decode_sense(response.sense).additional == expected, (action, length)


def test_the_guest_sees_a_mask_where_the_lun_says_otherwise(front_end: FrontEnd) -> None:
    front_end.settle()
    masked = Capabilities.decode(front_end.tell(in_command(InServiceAction.REPORT_CAPABILITIES)).data_in)
    third = front_end.set_up.third()
    true = Capabilities.decode(
        front_end.runner.run(third.tell(in_command(InServiceAction.REPORT_CAPABILITIES))).data_in
    )
    assert (masked.sip_c, masked.atp_c) == (False, False)
    assert (true.sip_c, true.atp_c) == (True, True)
    assert masked.types == true.types


def test_without_migrate_pr_every_initiator_name_is_a_nexus_of_its_own(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, hosts=("host-a",), migrate_pr=("off",)) as set_up:
            url = set_up.export("host-a")
            one, two = set_up.initiator("one", url), set_up.initiator("two", url)
            await one.register()
            await one.reserve(ReservationType.EXCLUSIVE_ACCESS)
            await one.must(WRITE)
            assert (await two.tell(READ)).status is Status.RESERVATION_CONFLICT
            capabilities = await one.must(in_command(InServiceAction.REPORT_CAPABILITIES))
            assert Capabilities.decode(capabilities.data_in).sip_c
            state = (await set_up.clients["host-a"].guest(GUEST)).devices[0]
            assert (state.key, state.type) == (None, None)

    asyncio.run(test())


def test_with_it_the_guest_is_one_nexus_by_whatever_name_its_qemu_logs_in(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, hosts=("host-a",), migrate_pr=("on",)) as set_up:
            url = set_up.export("host-a")
            one, two = set_up.initiator("one", url), set_up.initiator("two", url)
            await one.register()
            await one.reserve(ReservationType.EXCLUSIVE_ACCESS)
            await two.must(WRITE)
            assert await set_up.registrants() == {"host-a": (KEY, True)}

    asyncio.run(test())


def test_sessions_are_as_many_as_the_configuration_says(tmp_path: Path) -> None:
    async def test() -> None:
        exports = ExportsConfig(max_sessions=1)
        async with san(tmp_path, hosts=("host-a",), migrate_pr=("on",), exports=exports) as set_up:
            url = set_up.export("host-a")
            await set_up.initiator("one", url).must(READ)
            with pytest.raises(PathError, match="out of resources"):
                await set_up.initiator("two", url).tell(READ)

    asyncio.run(test())


def test_a_target_that_restarts_is_a_moments_matter(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, hosts=("host-a",), migrate_pr=("on",)) as set_up:
            guest = set_up.guest_on("host-a")
            await guest.register(aptpl=True)
            await set_up.target.close()
            lost = await guest.tell(WRITE)
            assert lost.status is Status.CHECK_CONDITION
            assert decode_sense(lost.sense).key is SenseKey.ABORTED_COMMAND
            await set_up.target.start("127.0.0.1", set_up.port)
            await guest.must(WRITE)
            await guest.must(out_command(OutServiceAction.RESERVE, KEY, type=ReservationType.WRITE_EXCLUSIVE))
            state = (await set_up.clients["host-a"].guest(GUEST)).devices[0]
            assert (state.key, state.type, state.stale) == (key_text(KEY), 1, False)

    asyncio.run(test())
