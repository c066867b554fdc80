"""The console with a shell of this machine at its other end, which echoes its input as a terminal may."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from holdover.demo.machines.console import CommandResult, Console, ConsoleError

LONG = 600.0


@contextlib.asynccontextmanager
async def console(greeting: bytes = b"") -> AsyncIterator[Console]:
    shells: list[asyncio.subprocess.Process] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        with contextlib.suppress(OSError):
            while line := await reader.readline():
                writer.write(line.replace(b"\n", b"\r\n"))  # the echo
                shell = await asyncio.create_subprocess_exec("sh", "-c", line, stdout=asyncio.subprocess.PIPE)
                shells.append(shell)
                assert shell.stdout is not None
                # as it comes, so that a command's output is seen before its end
                while data := await shell.stdout.read(4096):
                    writer.write(data.replace(b"\n", b"\r\n"))
                await shell.wait()
        writer.close()

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "console.sock"
        server = await asyncio.start_unix_server(serve, str(path))
        connected = await Console.connect(path)
        try:
            yield connected
        finally:
            await connected.close()
            server.close()
            for shell in shells:
                await shell.wait()


def test_a_command_gives_its_status_and_both_its_streams() -> None:
    async def scenario() -> None:
        async with console() as guest:
            result = await guest.run("echo out; echo err >&2; exit 3", timeout=LONG)
            assert result == CommandResult(3, "out\nerr\n")

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("command", "output"),
    [
        ("true", ""),
        ("printf 'no newline'", "no newline"),
        ("""echo 'single' "double" \\$ `echo back`""", "single double $ back\n"),
        ("echo @@end-1 0@@", "@@end-1 0@@\n"),
        ("cat", ""),
    ],
)
def test_what_a_command_writes_comes_back_as_it_was(command: str, output: str) -> None:
    async def scenario() -> None:
        async with console() as guest:
            # number 1, so that the mark in one of the commands above is an old one
            await guest.run("true", timeout=LONG)
            assert await guest.run(command, timeout=LONG) == CommandResult(0, output)

    asyncio.run(scenario())


def test_a_command_that_is_no_shell_leaves_the_next_one_alone() -> None:
    async def scenario() -> None:
        async with console() as guest:
            assert (await guest.run("if (", timeout=LONG)).status != 0
            assert await guest.run("echo on", timeout=LONG) == CommandResult(0, "on\n")

    asyncio.run(scenario())


def test_what_the_guest_wrote_before_is_not_taken_for_output() -> None:
    async def scenario() -> None:
        async with console(b"booting\r\nREADY\r\nmore\r\n") as guest:
            assert (await guest.wait_for("READY", LONG)).startswith("booting\n")
            assert await guest.run("echo a", timeout=LONG) == CommandResult(0, "a\n")

    asyncio.run(scenario())


def test_a_command_that_does_not_end_shows_what_it_wrote() -> None:
    async def scenario() -> None:
        async with console() as guest:
            with pytest.raises(ConsoleError, match=r"no the end of 'echo half; sleep 1.5' within .*\n.*half"):
                await guest.run("echo half; sleep 1.5", timeout=1.0)

    asyncio.run(scenario())


def test_a_guest_that_ends_is_an_error() -> None:
    async def scenario() -> None:
        async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"panic\n")
            writer.close()

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "console.sock"
            server = await asyncio.start_unix_server(hang_up, str(path))
            guest = await Console.connect(path)
            with pytest.raises(ConsoleError, match="panic"):
                await guest.wait_for("READY", LONG)
            await guest.close()
            server.close()

    asyncio.run(scenario())


def test_no_socket_is_an_error_that_names_it() -> None:
    async def scenario() -> None:
        with pytest.raises(ConsoleError, match=r"/nowhere/console.sock"):
            await Console.connect("/nowhere/console.sock")

    asyncio.run(scenario())


@pytest.mark.parametrize("command", ["a\nb", "echo " + "x" * 5000])
def test_what_does_not_fit_into_a_line_is_refused(command: str) -> None:
    async def scenario() -> None:
        async with console() as guest:
            with pytest.raises(ConsoleError, match="one line"):
                await guest.run(command)

    asyncio.run(scenario())
