"""What another host's agent may say of handovers, and what it may not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from holdover.agent.guests.guest import HostedGuest
from holdover.agent.handover.answers import HandoverProblem
from holdover.api.client import AgentClient, AgentError, AgentRefused
from holdover.api.documents import PeerMessage, PeerState
from holdover.api.version import API_VERSION
from holdover.config.agent_file import Limits
from holdover.guest.machine_type import MachineType
from holdover.handover.lun_handover import LunHandover
from holdover.handover.protocol import Answer, Answered, Destination, Message
from holdover.handover.states import Event, MessageKind
from holdover.reservations.tracked import Tracked
from tests.agent.device_rig import Rig
from tests.agent.handover.moves import move, reserved
from tests.agent.handover.test_trouble import until
from tests.agent.hosts import GUEST, KEY, WRITE, San, san

QUICK = Limits(connect=2, step=2, drain=2, peer=3, give_up=1, recheck=0.2)


async def hears(
    set_up: San,
    host: str,
    kind: MessageKind,
    handover_id: str,
    guest: str,
    *,
    lost: bool = False,
    number: int = 9,
) -> Answer:
    message = Message(kind, handover_id, guest, number, (LunHandover("naa.1", lost=lost),))
    other = next(each for each in set_up.hosts if each != host)
    peer = set_up.peer(host)
    try:
        return await peer.tell(PeerMessage(version=API_VERSION, host=other, message=message))
    finally:
        await peer.close()


@pytest.mark.parametrize("guest", [GUEST, "other"])
@pytest.mark.parametrize("kind", MessageKind, ids=lambda kind: kind.value)
def test_no_message_hides_a_handover_of_which_this_host_is_the_source(
    tmp_path: Path, kind: MessageKind, guest: str
) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            await reserved(set_up)
            client = set_up.clients["host-a"]
            await client.prepare(GUEST, "h1", set_up.apis["host-b"])
            await client.commit(GUEST, "h1")
            answer = await hears(set_up, "host-a", kind, "h1", guest)
            if kind in (MessageKind.RETURN, MessageKind.CLOSE):
                assert answer.kind is Answered.DONE  # nothing was prepared here for that source
            else:
                assert answer.kind is Answered.REFUSED
                assert "host-a is the source of handover h1" in answer.problem
            assert [each.role for each in set_up.journals["host-a"].load().handovers] == ["source"]
            await set_up.stop("host-a")
            await set_up.start("host-a")
            assert (await client.handover(GUEST)).state == "committed"
            assert (await set_up.gates())["host-a"] == "leaving"

    asyncio.run(test())


def test_an_agent_of_another_version_is_refused_by_name(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            message = Message(MessageKind.PREPARE, "h1", GUEST, 1, (LunHandover("naa.1"),))
            peer = set_up.peer("host-b")
            told = PeerMessage(version="4.0", host="host-a", message=message)
            answer = await peer.tell(told)
            await peer.close()
            assert answer.kind is Answered.REFUSED
            assert "the agent of host-a 4.0: a handover works between equal versions" in answer.problem
            assert not set_up.journals["host-b"].load().handovers

    asyncio.run(test())


def test_no_message_hides_one_that_is_over(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            await reserved(set_up)
            await move(set_up)
            await move(set_up, "host-b", "host-a", "h2")
            answer = await hears(set_up, "host-a", MessageKind.CLOSE, "h1", "other")
            assert answer.kind is Answered.DONE
            peer = set_up.peer("host-a")
            assert (await peer.peer_state("h1")).state == "gone"
            await peer.close()

    asyncio.run(test())


def test_a_source_that_cannot_be_asked_for_a_reason_unforeseen_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            await reserved(set_up)
            client = set_up.clients["host-a"]
            await client.prepare(GUEST, "h1", set_up.apis["host-b"])
            ask = AgentClient.peer_state
            failed = asyncio.Event()

            async def fails(_self: AgentClient, _handover: str) -> PeerState:
                monkeypatch.setattr(AgentClient, "peer_state", ask)
                failed.set()
                raise RuntimeError("not foreseen")

            monkeypatch.setattr(AgentClient, "peer_state", fails)
            await set_up.stop("host-b")
            with pytest.raises(AgentRefused):
                await client.roll_back(GUEST, "h1")
            assert (await client.roll_back(GUEST, "h1", alone=True)).state == "stayed"
            await set_up.start("host-b")
            await failed.wait()
            await until(set_up, "host-b", lambda state: state.state == "returned")

    asyncio.run(test())


def test_a_late_message_of_a_source_that_went_on_alone_keeps_no_handover_open(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            await reserved(set_up)
            client = set_up.clients["host-a"]
            await client.prepare(GUEST, "h1", set_up.apis["host-b"])
            await set_up.stop("host-b")
            with pytest.raises(AgentRefused):
                await client.roll_back(GUEST, "h1")
            assert (await client.roll_back(GUEST, "h1", alone=True)).state == "stayed"
            await set_up.start("host-b")
            await until(set_up, "host-b", lambda state: state.state == "returned")
            asking = set_up.hosts["host-b"].handovers._incoming._asking
            assert asking is not None
            await asyncio.wait([asking])
            record = set_up.journals["host-b"].load().handovers[-1]
            known = msgspec.json.decode(record.body, type=Destination)
            late = Message(MessageKind.CLOSE, "h1", GUEST, known.number + 1, known.luns)
            peer = set_up.peer("host-b")
            answer = await peer.tell(PeerMessage(version=API_VERSION, host="host-a", message=late))
            await peer.close()
            assert answer.kind is Answered.DONE
            await until(set_up, "host-b", lambda state: not state.open)
            await move(set_up, name="h2")

    asyncio.run(test())


def test_a_late_answer_that_a_handover_is_over_does_not_touch_the_guest_that_has_come_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            await reserved(set_up)
            client = set_up.clients["host-a"]
            ask, asked, come, told = AgentClient.peer_state, asyncio.Event(), asyncio.Event(), asyncio.Event()

            async def late(client: AgentClient, handover: str) -> PeerState:
                monkeypatch.setattr(AgentClient, "peer_state", ask)
                asked.set()
                await come.wait()
                asyncio.get_running_loop().call_soon(told.set)
                return PeerState(handover_id=handover, known=True, state="stayed", version=API_VERSION)

            await client.prepare(GUEST, "h1", set_up.apis["host-b"])
            monkeypatch.setattr(AgentClient, "peer_state", late)
            await asked.wait()
            await client.roll_back(GUEST, "h1")
            await move(set_up, name="h2")
            come.set()
            await told.wait()
            await set_up.hosts["host-b"].handovers.settled(GUEST)
            assert (await set_up.gates())["host-b"] == "running"
            await set_up.guest_on("host-b").must(WRITE)

    asyncio.run(test())


@pytest.mark.parametrize("kind", [MessageKind.CLOSE, MessageKind.RETURN], ids=lambda kind: kind.value)
@pytest.mark.parametrize("lost", [False, True])
def test_a_roll_back_whose_record_cannot_be_read_ends_where_no_reservation_was_moved(
    tmp_path: Path, kind: MessageKind, lost: bool
) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            await reserved(set_up)
            client = set_up.clients["host-a"]
            await client.prepare(GUEST, "h1", set_up.apis["host-b"])
            await client.roll_back(GUEST, "h1")
            await set_up.stop("host-b")
            journal = set_up.journals["host-b"]
            (first,) = journal.load().handovers
            assert first.state == "returned"
            await journal.put(msgspec.structs.replace(first, body=b"of a newer agent"))
            await set_up.start("host-b")
            answer = await hears(set_up, "host-b", kind, "h1", GUEST, lost=lost)
            assert answer.kind is (Answered.REFUSED if lost else Answered.DONE)
            assert ("cannot read its record" in answer.problem) is lost
            assert [each.body for each in journal.load().handovers] == [b"of a newer agent"]
            assert await set_up.registrants() == {"host-a": (KEY, True)}
            await move(set_up, name="h2")

    asyncio.run(test())


def test_a_message_of_many_luns_is_heard_and_one_without_end_is_not(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            spare = (1 << 63) - 1
            luns = tuple(
                LunHandover(
                    f"naa.{number:032x}",
                    tracked=Tracked(spare, True),
                    source_spare=spare,
                    destination_spare=spare,
                    fresh_spare=spare,
                    others=(spare,) * 16,
                )
                for number in range(1000)
            )
            peer = set_up.peer("host-b")
            for times, heard in ((1, True), (8, False)):
                message = Message(MessageKind.COMMIT, "h1", GUEST, 9, luns * times)
                told = PeerMessage(version=API_VERSION, host="host-a", message=message)
                if heard:
                    answer = await peer.tell(told)
                    assert "knows nothing of this handover" in answer.problem
                else:
                    with pytest.raises(AgentError):
                        await peer.tell(told)
            await peer.close()

    asyncio.run(test())


@pytest.mark.parametrize("host", ["host-a", "host-b"])
def test_another_guest_that_has_come_since_it_was_prepared_stops_the_commit(
    tmp_path: Path, host: str
) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            await reserved(set_up)
            client = set_up.clients["host-a"]
            await client.prepare(GUEST, "h1", set_up.apis["host-b"])
            guests = set_up.hosts[host].guests
            other = Rig().device
            other.recall_designator(set_up.luns[0].designator)
            other.block.adopt(Tracked(0xBAD))
            guests[GUEST].devices[0].sole_nexus = False
            machine = MachineType.parse("q35")
            guests["db2"] = HostedGuest("db2", host, machine, [other], None, guests[GUEST].limits)
            with pytest.raises(
                AgentRefused, match=f"guest db2 of {host} is registered .* guest db1"
            ) as error:
                await client.commit(GUEST, "h1")
            del guests["db2"]
            assert error.value.problem.state == ("prepared" if host == "host-a" else "stayed")
            assert (await client.roll_back(GUEST, "h1")).state == "stayed"
            assert await set_up.registrants() == {"host-a": (KEY, True)}

    asyncio.run(test())


def test_what_was_prepared_is_withdrawn_when_the_source_is_dead(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            await reserved(set_up)
            client = set_up.clients["host-b"]
            await set_up.clients["host-a"].prepare(GUEST, "h1", set_up.apis["host-b"])
            await set_up.stop("host-a")
            for _ in range(2):
                assert (await client.roll_back(GUEST, "h1", alone=True)).state == "returned"
            assert await set_up.registrants() == {"host-a": (KEY, True)}
            # the source comes back, and nothing is committed
            await set_up.start("host-a")
            with pytest.raises(AgentRefused):
                await set_up.clients["host-a"].commit(GUEST, "h1")
            await until(set_up, "host-a", lambda state: state.state == "stayed")
            assert await set_up.registrants() == {"host-a": (KEY, True)}

    asyncio.run(test())


def test_what_was_committed_is_not_withdrawn_by_an_operator(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            await reserved(set_up)
            await set_up.clients["host-a"].prepare(GUEST, "h1", set_up.apis["host-b"])
            await set_up.clients["host-a"].commit(GUEST, "h1")
            await set_up.stop("host-a")
            client = set_up.clients["host-b"]
            with pytest.raises(AgentRefused, match="its reservations are here") as refused:
                await client.roll_back(GUEST, "h1", alone=True)
            assert refused.value.problem.state == "committed"
            assert await set_up.registrants() == {"host-b": (KEY, True)}

    asyncio.run(test())


def test_a_handover_whose_record_cannot_be_read_does_not_begin_anew(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            await reserved(set_up)
            await move(set_up)
            await move(set_up, "host-b", "host-a", "h2")
            await set_up.stop("host-b")
            journal = set_up.journals["host-b"]
            (first,) = (each for each in journal.load().handovers if each.handover_id == "h1")
            await journal.put(msgspec.structs.replace(first, body=b"of a newer agent"))
            await set_up.start("host-b")
            before = await set_up.registrants()
            answer = await hears(set_up, "host-b", MessageKind.PREPARE, "h1", GUEST)
            assert answer.kind is Answered.REFUSED
            assert "h1 is over on host-b, whose agent cannot read its record" in answer.problem
            assert (await set_up.gates())["host-b"] == "departed"
            assert await set_up.registrants() == before
            with pytest.raises(AgentRefused, match="h1 was used already"):
                await set_up.clients["host-b"].prepare(GUEST, "h1", set_up.apis["host-a"])
            # a source that was restarted hears that the guest has come here
            answer = await hears(set_up, "host-b", MessageKind.RETURN, "h1", GUEST)
            assert answer.kind is Answered.TAKEN
            # a source that could not yet end it ends it
            answer = await hears(set_up, "host-b", MessageKind.FINISH, "h1", GUEST)
            assert answer.kind is Answered.DONE
            await move(set_up, name="h3")

    asyncio.run(test())


def test_the_handover_of_a_guest_that_the_file_has_lost_is_named_with_its_state(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            await reserved(set_up)
            client = set_up.clients["host-a"]
            await client.prepare(GUEST, "h1", set_up.apis["host-b"])
            await set_up.stop("host-a")
            right = set_up.configs["host-a"]
            set_up.configs["host-a"] = msgspec.structs.replace(right, guest=())
            await set_up.start("host-a")
            with pytest.raises(AgentRefused, match=r"no guest .* h1 is prepared on host-a.* put its .* back"):
                await client.commit(GUEST, "h1")
            handovers = set_up.hosts["host-a"].handovers
            with pytest.raises(HandoverProblem, match=r"h1 is prepared on host-a.* put its .* back") as left:
                await handovers.ask(GUEST, "h1", Event.ASKED_COMMIT)
            assert (left.value.problem.state, left.value.problem.in_doubt) == ("prepared", False)
            await set_up.stop("host-a")
            set_up.configs["host-a"] = right
            await set_up.start("host-a")
            await until(set_up, "host-a", lambda state: state.state == "prepared")
            assert (await client.commit(GUEST, "h1")).state == "committed"
            assert (await client.finish(GUEST, "h1")).state == "gone"
            await move(set_up, "host-b", "host-a", "h2")
            with pytest.raises(AgentRefused, match="is not the guest's newest") as refused:
                await set_up.clients["host-a"].finish(GUEST, "h1")
            assert refused.value.problem.state == "gone"

    asyncio.run(test())


@pytest.mark.parametrize("kind", [MessageKind.CLOSE, MessageKind.RETURN], ids=lambda kind: kind.value)
def test_a_roll_back_whose_record_cannot_be_read_can_be_ended(tmp_path: Path, kind: MessageKind) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            await reserved(set_up)
            client = set_up.clients["host-a"]
            await client.prepare(GUEST, "h1", set_up.apis["host-b"])
            await client.roll_back(GUEST, "h1")
            await set_up.stop("host-b")
            journal = set_up.journals["host-b"]
            (first,) = journal.load().handovers
            assert first.state == "returned"
            await journal.put(msgspec.structs.replace(first, body=b"of a newer agent"))
            await set_up.start("host-b")
            assert (await hears(set_up, "host-b", kind, "h1", GUEST)).kind is Answered.DONE
            await move(set_up, name="h2")

    asyncio.run(test())
