"""Listening sockets that systemd keeps: a restart refuses no connection, and nothing is kept in vain."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.agents import GUEST, own_environment, settings
from bench.service_manager import ServiceManager as Manager

from holdover.agent.guests.chap_secrets import ChapSecrets
from holdover.config.agent_file import export_iqn
from holdover.demo.processes import free_port
from holdover.service.notify import ServiceManager
from holdover.service.stored_sockets import StoredSockets
from tests.rig.processes import Rig


@pytest.fixture
def heard(tmp_path: Path) -> Iterator[socket.socket]:
    """The manager's socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(tmp_path / "notify"))
        made.settimeout(600)
        yield made


@pytest.fixture
def told(tmp_path: Path, heard: socket.socket) -> ServiceManager:
    assert heard.fileno() >= 0
    return ServiceManager(str(tmp_path / "notify"))


def receive(heard: socket.socket) -> tuple[bytes, list[int]]:
    said, descriptors, _, _ = socket.recv_fds(heard, 1000, 4)
    return said, descriptors


def test_a_new_socket_is_stored_and_taken_up_again(heard: socket.socket, told: ServiceManager) -> None:
    with StoredSockets(told).open(socket.AF_INET, ("127.0.0.1", port := free_port())):
        said, (kept,) = receive(heard)
        assert said == f"FDSTORE=1\nFDNAME=127.0.0.1_{port}".encode()
    with socket.create_connection(("127.0.0.1", port)) as waiting:
        again = StoredSockets(told, (socket.socket(fileno=kept),))
        with again.open(socket.AF_INET, ("127.0.0.1", port)) as taken:
            accepted, address = taken.accept()
            accepted.close()
            assert address == waiting.getsockname()
        again.close_unused()
        assert receive(heard)[0] == said


def test_what_nobody_opens_again_is_removed(heard: socket.socket, told: ServiceManager) -> None:
    kept = socket.create_server(("127.0.0.1", 0))
    port = kept.getsockname()[1]
    StoredSockets(told, (kept,)).close_unused()
    assert receive(heard)[0] == f"FDSTOREREMOVE=1\nFDNAME=127.0.0.1_{port}".encode()
    assert kept.fileno() == -1


def test_a_kept_socket_gives_way_to_another_address_of_its_port(
    heard: socket.socket, told: ServiceManager
) -> None:
    kept = socket.create_server(("0.0.0.0", 0))  # noqa: S104
    port = kept.getsockname()[1]
    with StoredSockets(told, (kept,)).open(socket.AF_INET, ("127.0.0.1", port)) as made:
        assert made.getsockname() == ("127.0.0.1", port)
    assert receive(heard)[0] == f"FDSTOREREMOVE=1\nFDNAME=0.0.0.0_{port}".encode()


def test_an_address_of_somebody_else_is_refused_at_once(told: ServiceManager) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        pytest.raises(OSError, match="in use"),
    ):
        StoredSockets(told).open(socket.AF_INET, other.getsockname())


def test_variables_of_another_process_are_not_ours() -> None:
    environment = {"LISTEN_PID": "1", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b", "HOME": "/"}
    StoredSockets.of(environment, os.getpid(), ServiceManager(None)).close_unused()
    assert environment == {"HOME": "/"}


def test_a_client_that_comes_during_a_restart_waits_and_is_served(rig: Rig) -> None:
    folder, export = rig.folder, f"127.0.0.1:{free_port()}"
    config = folder / "agent.toml"
    text = settings(folder, "host-a", rig.hosts, export, [rig.target().url()], incoming=False)
    config.write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "holdover", "agent", "--config", str(config)]
    with Manager(command, own_environment(folder), folder) as manager:
        manager.start()
        secret = ChapSecrets(folder / "host-a.state").file(GUEST).read_text(encoding="ascii")
        url = f"iscsi://{GUEST}%{secret}@{export}/{export_iqn(GUEST)}/0"
        assert set(manager.store) == {
            each.replace(":", "_") for each in (export, rig.hosts["host-a"].address)
        }
        for end in (manager.stop, manager.kill):
            end()
            host, _, port = export.rpartition(":")
            waiting = socket.create_connection((host, int(port)))  # nobody refuses it
            asking = subprocess.Popen(
                [sys.executable, "-m", "holdover", "pr", "status", url],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            manager.start()
            said, _ = asking.communicate(timeout=600)
            assert asking.returncode == 0, said + manager.output
            waiting.close()


def test_what_takes_long_to_import_comes_after_the_exports() -> None:
    code = (
        "import sys, holdover.agent.daemon\n"
        "late = {'litestar', 'aiohttp', 'uvicorn', 'yaml', 'prometheus_client'} & set(sys.modules)\n"
        "import holdover.agent.api_server\n"
        "from holdover.agent.server import _Litestar\n"
        "_Litestar(route_handlers=[], logging_config=None)\n"
        "print(late, 'pydantic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set() False\n"
