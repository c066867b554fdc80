"""`holdover target` as its operator uses it: faults, events, the live table, CHAP, portals."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import select
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from holdover.iscsi.errors import ConnectionLost, LoginError
from holdover.iscsi.initiator.initiator import IscsiInitiator
from holdover.scsi.cdbs.opcodes import OutServiceAction, ReservationType
from holdover.scsi.command import Command, Response
from holdover.scsi.reservation.reservation_out import out_command
from holdover.scsi.sense import AdditionalSense, is_unit_attention
from holdover.scsi.status import Status
from tests.cli.operating import (
    INQUIRY,
    IQN,
    ISID,
    REGISTER,
    REGISTER_APTPL,
    RESERVE,
    TEST_UNIT_READY,
    events,
    keys,
    logged_in,
    ready,
    run,
    start,
)
from tests.rig.processes import Process, Rig, Target, free_port


def test_status_faults_strike_whom_they_are_meant_for(rig: Rig) -> None:
    busy = "status=busy,opcode=TEST_UNIT_READY,initiator=*:a,lun=1,count=2"
    target = start(rig, "--fault", busy, "--fault", "status=reservation-conflict,action=RESERVE", luns=2)

    async def test() -> None:
        async with logged_in(target) as a, logged_in(target, "b") as b:
            await ready(a)
            await ready(b)
            await ready(b, 1)
            answers = [await a.execute(1, TEST_UNIT_READY) for _ in range(3)]
            assert [each.status for each in answers[:2]] == [Status.BUSY, Status.BUSY]
            assert is_unit_attention(answers[2])
            assert (await a.execute(0, REGISTER)).good
            assert (await a.execute(0, RESERVE)).status is Status.RESERVATION_CONFLICT
            assert (await b.execute(1, TEST_UNIT_READY)).good

    run(test)


def test_latency_lets_others_pass(rig: Rig) -> None:
    target = start(rig, "--fault", "latency=1500ms,opcode=INQUIRY")

    async def test() -> None:
        async with logged_in(target) as a:
            await ready(a)
            order: list[int] = []

            async def send(command: Command) -> Response:
                answer = await a.execute(0, command)
                order.append(command.opcode)
                return answer

            started = time.monotonic()
            answers = await asyncio.gather(send(INQUIRY), send(TEST_UNIT_READY))
            assert all(each.good for each in answers)
            assert order == [TEST_UNIT_READY.opcode, INQUIRY.opcode]
            assert time.monotonic() - started >= 1.5

    run(test)


def test_a_lost_response_and_the_command_was_carried_out(rig: Rig) -> None:
    target = start(rig, "--fault", "lose-response,action=REGISTER,count=1")

    async def test() -> None:
        async with logged_in(target) as a:
            await ready(a)
            lost = asyncio.create_task(a.execute(0, REGISTER))
            while await keys(a) != (0xA,):
                assert not lost.done()
            assert (await a.execute(0, RESERVE)).good
            assert not lost.done()
        with pytest.raises(ConnectionLost):
            await lost

    run(test)


@pytest.mark.parametrize(("when", "left"), [("before", ()), ("after", (0xA,))])
def test_a_cut_connection_before_and_after_the_command(rig: Rig, when: str, left: tuple[int, ...]) -> None:
    target = start(rig, "--fault", f"drop-connection,when={when},action=REGISTER,count=1", "--json-events")

    async def test() -> None:
        async with logged_in(target) as a, logged_in(target, "b") as b:
            await ready(a)
            await ready(b)
            with pytest.raises(ConnectionLost):
                await a.execute(0, REGISTER)
            assert (await b.execute(0, TEST_UNIT_READY)).good, "no other connection is cut"
            assert await keys(b) == left
        async with logged_in(target) as again:
            assert await ready(again) == [AdditionalSense.I_T_NEXUS_LOSS_OCCURRED]

    run(test)
    ended = events(target, "session-end")
    assert "a fault cut the connection" in [each["reason"] for each in ended]


@pytest.mark.parametrize("aptpl", [False, True])
def test_power_loss_forgets_what_is_not_durable(rig: Rig, aptpl: bool) -> None:
    target = start(rig, "--fault", "power-loss,opcode=INQUIRY,initiator=*:b", "--json-events")
    power_on = [AdditionalSense.POWER_ON_RESET_OR_BUS_DEVICE_RESET_OCCURRED]
    write = Command(bytes.fromhex("2a000000000000000100"), b"w" * 512)
    read = Command(bytes.fromhex("28000000000000000100"), data_in_length=512)

    async def test() -> None:
        async with logged_in(target) as a, logged_in(target, "b") as b:
            await ready(a)
            await ready(b)
            assert (await a.execute(0, REGISTER_APTPL if aptpl else REGISTER)).good
            assert (await a.execute(0, RESERVE)).good
            assert (await a.execute(0, write)).good
            assert (await b.execute(0, INQUIRY)).good
            assert await ready(a) == power_on
            assert await ready(b) == power_on
            assert await keys(b) == ((0xA,) if aptpl else ())
            assert (await a.execute(0, read)).data_in == b"w" * 512
            assert (await b.execute(0, INQUIRY)).good
            assert await ready(a) == [], "once is enough"
            refused = (await b.execute(0, write)).status
            assert refused is (Status.RESERVATION_CONFLICT if aptpl else Status.GOOD)

    run(test)
    (lost,) = events(target, "power-loss")
    removed = [] if aptpl else ["0xa"]
    assert [each["key"] for each in lost["changes"]["removed"]] == removed
    assert (lost["changes"]["reservation"] is None) is not aptpl


def test_power_is_lost_under_load_and_no_command_with_it(rig: Rig) -> None:
    target = start(rig, "--fault", "power-loss,opcode=INQUIRY,count=50")

    async def test() -> None:
        async with logged_in(target) as a, logged_in(target, "b") as b:

            async def send(initiator: IscsiInitiator, command: Command) -> None:
                for _ in range(50):
                    answer = await initiator.execute(0, command)
                    assert answer.good or is_unit_attention(answer)

            write = Command(bytes.fromhex("2a0000000000000400") + b"\0", b"w" * 512 * 1024)
            register = out_command(OutServiceAction.REGISTER_AND_IGNORE_EXISTING_KEY, 0, 1, aptpl=True)
            flush = Command(bytes.fromhex("35000000000000000000"))
            await asyncio.gather(
                *(send(b, INQUIRY) for _ in range(2)),
                *(send(a, command) for command in (write, register, flush, register, TEST_UNIT_READY)),
            )
            await ready(a)
            assert await keys(a) == (1,)

    run(test)


def test_events_say_who_changed_what(rig: Rig) -> None:
    target = start(rig, "--json-events")
    preempt = out_command(OutServiceAction.PREEMPT, 0xB, 0xA, type=ReservationType.WRITE_EXCLUSIVE)

    async def test() -> None:
        async with logged_in(target) as a, logged_in(target, "b") as b:
            await ready(a)
            await ready(b)
            assert (await a.execute(0, REGISTER)).good
            assert (await b.execute(0, out_command(OutServiceAction.REGISTER, 0, 0xB, aptpl=True))).good
            assert (await a.execute(0, RESERVE)).good
            refused = await b.execute(0, out_command(OutServiceAction.RELEASE, 0xC))
            assert refused.status is Status.RESERVATION_CONFLICT
            assert (await b.execute(0, preempt)).good
            again = out_command(OutServiceAction.REGISTER, 0xB, 0xD)
            assert (await b.execute(0, again)).good
            short = Command(bytes.fromhex("5f000000000000000800"), bytes(8))
            assert not (await b.execute(0, short)).good

    run(test)
    target.process.end()
    (told,) = events(target, "listening")
    assert (told["lun"], told["url"]) == (0, target.url())
    assert [each["event"] for each in events(target, "session-begin", "session-end")].count(
        "session-end"
    ) == 2
    name_a, name_b = (f"iqn.2026-11.org.example:{name},i,0x{ISID.hex()}" for name in "ab")
    out = events(target, "persistent-reserve-out")
    assert [(each["service_action"], each["status"].split(":")[0]) for each in out] == [
        ("REGISTER", "GOOD"),
        ("REGISTER", "GOOD"),
        ("RESERVE", "GOOD"),
        ("RELEASE", "RESERVATION CONFLICT"),
        ("PREEMPT", "GOOD"),
        ("REGISTER", "GOOD"),
        ("REGISTER", "CHECK CONDITION"),
    ]
    assert [each["changes"]["generation"] for each in out] == [1, 2, 2, 2, 3, 4, 4]
    registered = {"initiator": name_a, "target_port": 1, "key": "0xa", "key_before": None}
    assert out[0]["changes"]["added"] == [registered]
    assert out[1]["changes"]["aptpl"] is True
    held = {"type": "we", "initiator": name_a, "target_port": 1, "key": "0xa"}
    assert (out[2]["changes"]["reservation_before"], out[2]["changes"]["reservation"]) == (None, held)
    moved = out[4]
    assert (moved["initiator"], moved["type"]) == (name_b, "we")
    assert (moved["key"], moved["service_action_key"]) == ("0xb", "0xa")
    assert moved["changes"]["removed"] == [registered]
    assert moved["changes"]["reservation_before"] == held
    assert moved["changes"]["reservation"] == {**held, "initiator": name_b, "key": "0xb"}
    (changed,) = out[5]["changes"]["changed"]
    assert (changed["key_before"], changed["key"]) == ("0xb", "0xd")
    assert out[6]["key"] is None


def test_events_end_with_their_reader_and_the_target_goes_on(rig: Rig) -> None:
    port = free_port()
    arguments = ["target", "--listen", f"127.0.0.1:{port}", "--iqn", IQN, "--json-events"]
    arguments += ["--lun", f"file={rig.folder / 'lun'},size=1M"]
    popen = subprocess.Popen(
        [sys.executable, "-m", "holdover", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    rig.processes.append(Process("target", popen, rig.folder / "none"))
    assert popen.stdout is not None
    assert json.loads(popen.stdout.readline())["event"] == "listening"
    popen.stdout.close()

    async def test() -> None:
        for _ in range(2):
            async with logged_in(Target(rig.processes[0], port, IQN, ())) as a:
                await ready(a)
                await a.execute(0, REGISTER)
                assert await keys(a) == (0xA,)

    run(test)
    popen.terminate()
    assert popen.wait(600) == 0
    assert popen.stderr is not None
    assert popen.stderr.read().decode() == "holdover: --json-events: Broken pipe; no more events\n"
    popen.stderr.close()
    rig.processes.clear()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["target", "--iqn", IQN, "--lun", "file=x,size=1M", "--fault", "explode"], "unknown word 'explode'"),
        (["target", "--iqn", IQN, "--lun", "file=x,size=1M", "--chap", "secretword"], "write USER%PASSWORD"),
        (["target", "--iqn", IQN, "--lun", "file=x,size=1M", "--chap-file", "none"], "none: No such file"),
        (
            ["target", "--iqn", IQN, "--lun", "file=x,size=1M", "--chap", "u%secretword", "--chap-file", "f"],
            "give one of them",
        ),
        (
            ["target", "--iqn", IQN, "--lun", "file=x,size=1M", "--mutual-chap", "u%secretword"],
            "the target shows itself only to initiators that show themselves",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_wrong_request_is_named_and_no_secret_with_it(rig: Rig, arguments: list[str], message: str) -> None:
    done = rig.holdover(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("holdover: ")
    assert message in done.stderr
    assert "secretword" not in done.stderr
    assert "Traceback" not in done.stderr


def test_max_sessions(rig: Rig) -> None:
    target = start(rig, "--max-sessions", "1")

    async def test() -> None:
        async with logged_in(target):
            with pytest.raises(LoginError, match="out of resources"):
                async with logged_in(target, "b"):
                    pass

    run(test)
    assert "1 sessions, the most that it takes; to have more, set --max-sessions" in target.process.output()


def test_chap_from_a_file(rig: Rig) -> None:
    (rig.folder / "chap").write_text("user%pass%word of 12\n")
    target = start(rig, "--chap-file", "chap")

    async def test() -> None:
        async with logged_in(target, "a", ("user", "pass%word of 12")) as a:
            await ready(a)
        for login in (None, ("user", "pass"), ("other", "pass%word of 12")):
            with pytest.raises(LoginError):
                async with logged_in(target, "a", login):
                    pass

    run(test)


def test_chap_from_the_environment(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDOVER_CHAP", "user%password of 16")
    target = start(rig)

    async def test() -> None:
        async with logged_in(target, "a", ("user", "password of 16")):
            pass
        with pytest.raises(LoginError):
            async with logged_in(target):
                pass

    run(test)


def test_mutual_chap(rig: Rig) -> None:
    (rig.folder / "chap").write_text("user%password of 16")
    (rig.folder / "mutual").write_text("target%another one of it")
    target = start(rig, "--chap-file", "chap", "--mutual-chap-file", "mutual")

    async def test() -> None:
        login = ("user", "password of 16")
        async with logged_in(target, "a", login, ("target", "another one of it")) as a:
            await ready(a)
        with pytest.raises(LoginError):
            async with logged_in(target, "a", login, ("target", "a third that is wrong")):
                pass

    run(test)


def test_two_portals_lead_to_the_same_lun(rig: Rig) -> None:
    second = free_port()
    target = start(rig, "--listen", f"127.0.0.1:{second}")

    async def test() -> None:
        async with logged_in(target) as a, logged_in(replace(target, port=second), "b") as b:
            await ready(a)
            await ready(b)
            assert (await a.execute(0, REGISTER)).good
            assert await keys(b) == (0xA,)

    run(test)
    for port in (target.port, second):
        assert f"LUN 0: {target.files[0]} at iscsi://127.0.0.1:{port}/{IQN}/0\n" in target.process.output()


def test_a_terminal_shows_who_is_there(rig: Rig) -> None:
    port = free_port()
    ours, theirs = pty.openpty()
    arguments = ["target", "--listen", f"127.0.0.1:{port}", "--iqn", IQN]
    arguments += ["--lun", f"file={rig.folder / 'lun'},size=1M"]
    popen = subprocess.Popen(
        [sys.executable, "-m", "holdover", *arguments],
        env={**os.environ, "TERM": "xterm", "COLUMNS": "200", "LINES": "40"},
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    rig.processes.append(Process("target", popen, rig.folder / "none"))
    seen = ""

    def until(text: str) -> None:
        nonlocal seen
        while text not in seen:
            assert select.select([ours], [], [], 30)[0], f"{text!r} never came after {seen!r}"
            seen += os.read(ours, 65536).decode()
        seen = seen.rpartition(text)[2]

    until(f"LUN 0: {rig.folder / 'lun'} at iscsi://127.0.0.1:{port}/{IQN}/0")
    until("nobody is logged in")

    async def test() -> None:
        async with logged_in(Target(rig.processes[0], port, IQN, ())) as a:
            await ready(a)
            await asyncio.to_thread(until, "iqn.2026-11.org.example:a")
            assert (await a.execute(0, REGISTER)).good
            await asyncio.to_thread(until, f"iqn.2026-11.org.example:a,i,0x{ISID.hex()}")
            assert (await a.execute(0, RESERVE)).good
            await asyncio.to_thread(until, f"iqn.2026-11.org.example:a,i,0x{ISID.hex()} (holder)")
        await asyncio.to_thread(until, "nobody is logged in")

    run(test)
    popen.terminate()
    assert popen.wait(600) == 0
    os.close(ours)
    rig.processes.clear()
