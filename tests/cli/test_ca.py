"""`holdover ca` as people type it, and a handover between agents that know each other by what it made."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.rig.processes import Rig, free_port

NAMES = ("host-a", "host-b", "admin-1", "stranger")


def ok(rig: Rig, *arguments: str) -> str:
    done = rig.holdover(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(rig: Rig, *arguments: str, status: int = 1) -> str:
    done = rig.holdover(*arguments)
    assert (done.returncode, done.stdout) == (status, ""), done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def identity(name: str, ca: str = "ca") -> tuple[str, ...]:
    return ("--certificate", f"{ca}/{name}.crt", "--key", f"{ca}/{name}.key", "--ca", f"{ca}/ca.crt")


def test_init_issue_and_show(rig: Rig) -> None:
    assert "Next: holdover ca issue HOST --ca ca" in ok(rig, "ca", "init", "ca")
    made = ok(rig, "ca", "issue", "host-a", "--ca", "ca", "--address", "10.0.0.1", "--days", "9")
    assert 'certificate = "ca/host-a.crt"' in made
    shown = rig.holdover_json("ca", "show", "ca/host-a.crt", "ca/ca.crt")
    assert [(each["name"], each["authority"]) for each in shown] == [
        ("host-a", False),
        ("Holdover authority", True),
    ]
    assert shown[0]["names"] == ["host-a", "10.0.0.1"]
    assert shown[0]["days_left"] in (8, 9)
    assert "host-a, 10.0.0.1" in ok(rig, "ca", "show", "ca/host-a.crt")
    as_json = rig.holdover_json("ca", "issue", "admin-1", "--ca", "ca")
    assert (as_json["name"], as_json["certificate"]) == ("admin-1", "ca/admin-1.crt")
    assert (as_json["replaced"], rig.holdover_json("ca", "init", "other")["replaced"]) == (False, False)


def test_what_is_there_is_not_written_over(rig: Rig) -> None:
    ok(rig, "ca", "init", "ca")
    ok(rig, "ca", "issue", "host-a", "--ca", "ca")
    before = (rig.folder / "ca" / "host-a.crt").read_bytes()
    assert "is there already; --replace" in refused(rig, "ca", "issue", "host-a", "--ca", "ca")
    assert "worthless" in refused(rig, "ca", "init", "ca")
    assert (rig.folder / "ca" / "host-a.crt").read_bytes() == before
    assert "Replaced the certificate" in ok(rig, "ca", "issue", "host-a", "--ca", "ca", "--replace")
    assert "make an authority with: holdover ca init none" in refused(
        rig, "ca", "issue", "host-a", "--ca", "none"
    )
    assert "none.crt: No such file" in refused(rig, "ca", "show", "none.crt")


def agent_file(rig: Rig, name: str, peer: str, ports: dict[str, int], drive: str) -> str:
    """The file of an agent of one guest, which runs on host-a."""
    file = rig.folder / f"{name}.toml"
    file.write_text(
        f"""
name = "{name}"
initiator = "iqn.2026-11.org.example:{name}"
state-dir = "{rig.folder}/{name}.state"

[api]
listen = ["127.0.0.1:{ports[name]}", "unix:{rig.folder}/{name}.sock"]
certificate = "ca/{name}.crt"
key = "ca/{name}.key"
ca = "ca/ca.crt"
operators = ["admin-1"]

[[peer]]
name = "{peer}"
api = "127.0.0.1:{ports[peer]}"

[[guest]]
name = "db1"
machine = "pc-q35-10.2"
export = "127.0.0.1:{free_port()}"
incoming = {"true" if name == "host-b" else "false"}
devices = ["scsi-block,drive={drive},migrate-pr=on"]
""",
        encoding="utf-8",
    )
    return str(file)


@pytest.fixture
def apis(rig: Rig) -> dict[str, str]:
    """Two agents with certificates, and a guest that has registered on the first."""
    ok(rig, "ca", "init", "ca")
    for name in NAMES:
        days = "5" if name == "host-a" else "30"
        ok(rig, "ca", "issue", name, "--ca", "ca", "--address", "127.0.0.1", "--days", days)
    drive = rig.target().url()
    ports = {"host-a": free_port(), "host-b": free_port()}
    for name, peer in (("host-a", "host-b"), ("host-b", "host-a")):
        rig.start(name, ["agent", "--config", agent_file(rig, name, peer, ports, drive)], ports=[ports[name]])
    return {name: f"127.0.0.1:{port}" for name, port in ports.items()}


def test_a_handover_between_agents_that_know_each_other(rig: Rig, apis: dict[str, str]) -> None:
    admin = identity("admin-1")
    hosts = rig.holdover_json("status", "--api", apis["host-a"], "--api", apis["host-b"], *admin)
    export = hosts[0]["guests"][0]["export"]
    secret = (rig.folder / "host-a.state" / "secrets" / "db1.chap").read_text()
    disk = export.replace("iscsi://", f"iscsi://db1%{secret}@") + "/0"
    ok(rig, "pr", "register", disk, "--new-key", "0xabc")
    ok(rig, "pr", "reserve", disk, "--key", "0xabc", "--type", "wero")
    between = ("--from", f"https://{apis['host-a']}", "--to", apis["host-b"])
    for name in ("host-a", "host-b", "stranger"):
        why = rig.holdover("migrate", "db1", "--reservations-only", *between, *identity(name)).stderr
        assert f"the certificate names '{name}', which is no operator of host-" in why
    moved = ok(rig, "migrate", "db1", "--reservations-only", *between, *admin)
    assert "Guest db1 moved from host-a to host-b" in moved
    # on the machine itself the socket needs no certificate
    here, there = (f"unix:{rig.folder}/{name}.sock" for name in ("host-b", "host-a"))
    assert "moved from host-b to host-a" in ok(
        rig, "migrate", "db1", "--reservations-only", "--from", here, "--to", there
    )


def test_status_warns_until_the_certificate_is_renewed(
    rig: Rig, apis: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, ending in (("CERTIFICATE", "admin-1.crt"), ("KEY", "admin-1.key"), ("CA", "ca.crt")):
        monkeypatch.setenv(f"HOLDOVER_{variable}", str(Path("ca") / ending))
    api = ("--api", apis["host-a"])
    warning = "the certificate of host-a (ca/host-a.crt) ends in 4 days: renew it"
    assert warning in ok(rig, "status", *api)
    agent = next(each for each in rig.processes if each.name == "host-a")
    assert warning in agent.output()
    ok(rig, "ca", "issue", "host-a", "--ca", "ca", "--address", "127.0.0.1", "--replace")
    agent.popen.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + 600
    while "certificates were read again" not in agent.output():
        assert time.monotonic() < deadline, agent.output()
        time.sleep(0.05)
    assert warning not in ok(rig, "status", *api)


def test_who_asks_wrongly_is_told_what_to_give(rig: Rig, apis: dict[str, str]) -> None:
    api = ("--api", apis["host-a"])
    assert "give --certificate, --key and --ca" in refused(rig, "status", *api, status=2)
    alone = refused(rig, "status", *api, "--certificate", "ca/admin-1.crt", status=2)
    assert "--certificate, --key and --ca belong together" in alone
    assert "give --certificate, --key and --ca" in refused(rig, "status", "--api", "host-a:1", status=2)
    ok(rig, "ca", "init", "other")
    ok(rig, "ca", "issue", "admin-1", "--ca", "other")
    assert "its certificate is refused" in refused(rig, "status", *api, *identity("admin-1", "other"))
    assert "which is no operator of host-a" in refused(rig, "status", *api, *identity("stranger"))


def test_an_agent_that_could_be_asked_by_anybody_does_not_start(rig: Rig) -> None:
    (rig.folder / "agent.toml").write_text(
        'name = "a"\ninitiator = "iqn.2026-11.org.example:a"\n[api]\nlisten = "127.0.0.1:7411"\n',
        encoding="utf-8",
    )
    why = refused(rig, "agent", "--config", "agent.toml", status=2)
    assert "holdover ca init" in why
    assert 'listen = "unix:/run/holdover/api.sock"' in why
