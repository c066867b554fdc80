"""Messages of handovers on a stream between two agents, and what a peer or a stranger cannot do on it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from holdover.api import stream_connection
from holdover.api.client import AgentClient, AgentRefused
from holdover.api.documents import PeerMessage, Problem
from holdover.api.message_frames import Frame, FrameKind
from holdover.api.message_stream import MOST_UNDER_WAY, MessageStream, NoStream, StreamLost
from holdover.api.migration_documents import MigrationOptions, QemuAction, QemuRequest
from holdover.api.request_bounds import LARGEST_BODY
from holdover.api.version import API_VERSION
from holdover.config.agent_file import Limits
from holdover.handover.lun_handover import LunHandover
from holdover.handover.protocol import Answer, Answered, Message
from holdover.handover.states import MessageKind
from holdover.pki.tls import ClientTls, Credentials, TlsFiles
from tests.agent.certified import within
from tests.agent.handover.moves import move, reserved
from tests.agent.hosts import GUEST, KEY, WRITE, San, san

QUICK = Limits(connect=2, step=2, drain=2, peer=10, give_up=2, recheck=600)
Body = Callable[[San], Awaitable[None]]


def with_two_agents(folder: Path, body: Body) -> None:
    async def test() -> None:
        async with san(folder, limits=QUICK) as set_up:
            await body(set_up)

    within(60, test)


def credentials_of(set_up: San, host: str) -> Credentials:
    files = set_up.certified[host]
    return Credentials(TlsFiles(files.certificate, files.key, files.ca))


async def stream_to(set_up: San, host: str, credentials: Credentials) -> MessageStream:
    address, _, port = set_up.apis[host].rpartition(":")
    return await MessageStream.open(address, int(port), credentials.stream, host)


def body_of(kind: MessageKind, handover_id: str = "h9", sender: str = "host-a") -> bytes:
    message = Message(kind, handover_id, GUEST, 9, (LunHandover("naa.1"),))
    return msgspec.json.encode(PeerMessage(version=API_VERSION, host=sender, message=message))


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of all requests of agents and operators."""
    seen: list[str] = []
    exchange = AgentClient._exchange

    async def noted(self: AgentClient, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        seen.append(path)
        return await exchange(self, method, path, body)

    monkeypatch.setattr(AgentClient, "_exchange", noted)
    return seen


async def opened(set_up: San, host: str) -> None:
    """Wait until the agent of a host has a stream to the other one."""
    peers = set_up.hosts[host].handovers._registry._peers
    for client in peers._clients.values():
        assert isinstance(client, AgentClient)
        assert client._opening is not None
        await client._opening


def test_the_messages_after_the_prepare_take_the_stream(tmp_path: Path, requests: list[str]) -> None:
    async def body(set_up: San) -> None:
        await reserved(set_up)
        client = set_up.clients["host-a"]
        await client.prepare(GUEST, "h1", set_up.apis["host-b"])
        await opened(set_up, "host-a")
        assert requests.count("/peer/handover") == 1
        await client.commit(GUEST, "h1")
        assert (await client.finish(GUEST, "h1")).state == "gone"
        assert requests.count("/peer/handover") == 1
        await set_up.guest_on("host-b").must(WRITE)
        assert await set_up.registrants() == {"host-b": (KEY, True)}

    with_two_agents(tmp_path, body)


def test_a_request_follows_where_the_stream_is_lost(tmp_path: Path, requests: list[str]) -> None:
    async def body(set_up: San) -> None:
        await reserved(set_up)
        client = set_up.clients["host-a"]
        await client.prepare(GUEST, "h1", set_up.apis["host-b"])
        await opened(set_up, "host-a")
        lost = asyncio.Event()

        async def loses(self: MessageStream, *_: object) -> Frame:
            self.close()
            lost.set()
            raise StreamLost("a test has cut it")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(MessageStream, "ask", loses)
            assert (await client.commit(GUEST, "h1")).state == "committed"
        assert lost.is_set()
        assert requests.count("/peer/handover") == 2
        assert (await client.finish(GUEST, "h1")).state == "gone"
        # the next handover opens another one
        await client.handover(GUEST)
        await move(set_up, "host-b", "host-a", "h2")

    with_two_agents(tmp_path, body)


def test_an_agent_without_streams_is_sent_requests(
    tmp_path: Path, requests: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    async def none(*_: object) -> MessageStream:
        tried.append("stream")
        raise NoStream("the agent is of a version without streams")

    monkeypatch.setattr(MessageStream, "open", none)

    async def body(set_up: San) -> None:
        await reserved(set_up)
        await move(set_up)
        await move(set_up, "host-b", "host-a", "h2")
        await move(set_up, name="h3")
        assert requests.count("/peer/handover") >= 9
        assert len(tried) == 2, "each agent tries once in a while"

    with_two_agents(tmp_path, body)


def test_tls_chooses_http_where_the_client_offers_no_stream(tmp_path: Path) -> None:
    async def body(set_up: San) -> None:
        credentials = credentials_of(set_up, "host-a")
        address, _, port = set_up.apis["host-b"].rpartition(":")
        with pytest.raises(NoStream, match="version without streams"):
            await MessageStream.open(address, int(port), credentials.client, "host-b")

    with_two_agents(tmp_path, body)


def test_who_is_no_peer_gets_no_stream(tmp_path: Path) -> None:
    async def body(set_up: San) -> None:
        files = set_up.certified["host-b"]
        # an agent is no peer of its own
        own = Credentials(TlsFiles(files.certificate, files.key, files.ca))
        stream = await stream_to(set_up, "host-b", own)
        with pytest.raises(StreamLost):
            await stream.ask(body_of(MessageKind.COMMIT))
        assert not set_up.journals["host-b"].load().handovers

    with_two_agents(tmp_path, body)


def test_a_peer_that_is_taken_out_of_the_file_is_not_heard_on_an_open_stream(tmp_path: Path) -> None:
    async def body(set_up: San) -> None:
        stream = await stream_to(set_up, "host-b", credentials_of(set_up, "host-a"))
        answer = await stream.ask(body_of(MessageKind.COMMIT))
        assert msgspec.json.decode(answer.body, type=Answer).kind is Answered.REFUSED
        host = set_up.hosts["host-b"]
        host.reconfigure(msgspec.structs.replace(host.config, peer=()))
        with pytest.raises(StreamLost):
            await stream.ask(body_of(MessageKind.COMMIT))

    with_two_agents(tmp_path, body)


def test_a_sender_that_is_not_who_its_certificate_names_is_refused(tmp_path: Path) -> None:
    async def body(set_up: San) -> None:
        stream = await stream_to(set_up, "host-b", credentials_of(set_up, "host-a"))
        answer = await stream.ask(body_of(MessageKind.COMMIT, sender="host-x"))
        assert "its message says host-x" in msgspec.json.decode(answer.body, type=Answer).problem
        stream.close()

    with_two_agents(tmp_path, body)


def test_what_is_no_message_is_a_problem_and_the_stream_goes_on(tmp_path: Path) -> None:
    async def body(set_up: San) -> None:
        stream = await stream_to(set_up, "host-b", credentials_of(set_up, "host-a"))
        answer = await stream.ask(b"{}")
        assert answer.kind is FrameKind.PROBLEM
        assert "the message is not valid" in msgspec.json.decode(answer.body, type=Problem).detail
        assert (await stream.ask(body_of(MessageKind.COMMIT))).kind is FrameKind.ANSWER
        stream.close()

    with_two_agents(tmp_path, body)


def test_a_problem_is_an_agent_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(set_up: San) -> None:
        peer = set_up.peer("host-b")
        stream = await stream_to(set_up, "host-b", credentials_of(set_up, "host-a"))
        peer._stream = stream

        async def fails(*_: object) -> Answer:
            raise RuntimeError("not foreseen")

        monkeypatch.setattr(set_up.hosts["host-b"].handovers, "receive", fails)
        message = Message(MessageKind.COMMIT, "h9", GUEST, 9, (LunHandover("naa.1"),))
        with pytest.raises(AgentRefused, match="not foreseen"):
            await peer.tell(PeerMessage(version=API_VERSION, host="host-a", message=message))
        await peer.close()

    with_two_agents(tmp_path, body)


@pytest.mark.parametrize(
    "sent",
    [
        (LARGEST_BODY + 1).to_bytes(4, "big") + bytes(5),
        bytes(8) + b"\x09",
        Frame(1, FrameKind.ANSWER, b"{}").encode(),
    ],
    ids=["a frame that is too long", "an unknown kind", "an answer"],
)
def test_a_stream_on_which_something_else_comes_is_closed(
    tmp_path: Path, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(set_up: San) -> None:
        stream = await stream_to(set_up, "host-b", credentials_of(set_up, "host-a"))
        assert stream._transport is not None
        lost = asyncio.Event()
        monkeypatch.setattr(stream, "_lose", lambda _: lost.set())
        stream._transport.write(sent)
        await lost.wait()
        assert (await set_up.clients["host-b"].guests()).host == "host-b"

    with_two_agents(tmp_path, body)


def test_a_peer_that_does_not_end_its_frame_is_closed_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_connection, "REQUEST_SECONDS", 0.2)

    async def body(set_up: San) -> None:
        stream = await stream_to(set_up, "host-b", credentials_of(set_up, "host-a"))
        assert stream._transport is not None
        lost = asyncio.Event()
        monkeypatch.setattr(stream, "_lose", lambda _: lost.set())
        stream._transport.write(Frame(1, FrameKind.MESSAGE, b"{}").encode()[:-1])
        await lost.wait()

    with_two_agents(tmp_path, body)


def test_a_peer_that_sends_without_pause_has_few_messages_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(set_up: San) -> None:
        under_way, most, come = 0, 0, asyncio.Event()
        reached = asyncio.Event()

        async def slow(message: PeerMessage, _: str) -> Answer:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            if under_way == MOST_UNDER_WAY:
                reached.set()
            await come.wait()
            under_way -= 1
            return Answer(Answered.DONE, message.message.number)

        monkeypatch.setattr(set_up.hosts["host-b"].handovers, "receive", slow)
        stream = await stream_to(set_up, "host-b", credentials_of(set_up, "host-a"))
        asked = [asyncio.ensure_future(stream.ask(body_of(MessageKind.COMMIT))) for _ in range(200)]
        await reached.wait()
        assert (await set_up.clients["host-b"].guests()).host == "host-b", (
            "the operator is answered meanwhile"
        )
        assert not stream.has_room
        assert most == MOST_UNDER_WAY
        come.set()
        assert {(await each).kind for each in asked} == {FrameKind.ANSWER}
        assert most == MOST_UNDER_WAY
        stream.close()

    with_two_agents(tmp_path, body)


def a_request(action: QemuAction) -> QemuRequest:
    return QemuRequest(guest=GUEST, migration_id="m9", action=action, options=MigrationOptions(), runs=True)


def test_the_request_to_run_a_guest_takes_the_stream_and_others_do_not(
    tmp_path: Path, requests: list[str]
) -> None:
    async def body(set_up: San) -> None:
        peer = set_up.peer("host-b")
        peer._stream = await stream_to(set_up, "host-b", credentials_of(set_up, "host-a"))
        with pytest.raises(AgentRefused, match=r"m9 .* from host-a is not the newest"):
            await peer.qemu(a_request(QemuAction.RUN))
        assert requests.count("/peer/migration") == 0
        for action in set(QemuAction) - {QemuAction.RUN, QemuAction.CHECK}:
            with pytest.raises(AgentRefused, match="is not the newest"):
                await peer.qemu(a_request(action))
        assert requests.count("/peer/migration") == len(QemuAction) - 2
        await peer.close()

    with_two_agents(tmp_path, body)


def test_a_request_to_run_a_guest_follows_where_the_stream_is_lost_or_half_full(
    tmp_path: Path, requests: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(set_up: San) -> None:
        peer = set_up.peer("host-b")
        stream = await stream_to(set_up, "host-b", credentials_of(set_up, "host-a"))
        peer._stream = stream
        waits = asyncio.Event()

        async def slow(message: PeerMessage, _: str) -> Answer:
            await waits.wait()
            return Answer(Answered.DONE, message.message.number)

        monkeypatch.setattr(set_up.hosts["host-b"].handovers, "receive", slow)
        asked = [
            asyncio.ensure_future(stream.ask(body_of(MessageKind.COMMIT))) for _ in range(MOST_UNDER_WAY // 2)
        ]
        await asyncio.sleep(0)
        assert stream.has_room
        for _ in range(2):
            with pytest.raises(AgentRefused, match="is not the newest"):
                await peer.qemu(a_request(QemuAction.RUN))
        assert requests.count("/peer/migration") == 2
        waits.set()
        await asyncio.gather(*asked)
        stream.close()
        with pytest.raises(AgentRefused, match="is not the newest"):
            await peer.qemu(a_request(QemuAction.RUN))
        assert requests.count("/peer/migration") == 3
        await peer.close()

    with_two_agents(tmp_path, body)


def test_on_a_stream_a_qemu_is_asked_for_nothing_but_to_run(tmp_path: Path) -> None:
    async def body(set_up: San) -> None:
        stream = await stream_to(set_up, "host-b", credentials_of(set_up, "host-a"))
        for action in set(QemuAction) - {QemuAction.RUN}:
            answer = await stream.ask(msgspec.json.encode(a_request(action)), FrameKind.QEMU)
            assert answer.kind is FrameKind.PROBLEM
            assert action.value in msgspec.json.decode(answer.body, type=Problem).detail
        stream.close()

    with_two_agents(tmp_path, body)


def test_only_a_client_with_a_stream_context_opens_one(tmp_path: Path, requests: list[str]) -> None:
    async def body(set_up: San) -> None:
        credentials = credentials_of(set_up, "host-a")
        peer = AgentClient(set_up.apis["host-b"], tls=ClientTls(credentials.client, "host-b"))
        message = Message(MessageKind.PREPARE, "h9", "nobody", 1, (LunHandover("naa.1"),))
        for _ in range(2):
            await peer.tell(PeerMessage(version=API_VERSION, host="host-a", message=message))
        assert requests.count("/peer/handover") == 2
        assert peer._opening is None
        await peer.close()

    with_two_agents(tmp_path, body)
