"""Rows of the runbook, provoked on running agents, and ended by the row's own command."""

from __future__ import annotations

import shutil
import signal

import pytest

from tests.rig.processes import Rig
from tests.runbook.operator import KEY, Site, told


@pytest.fixture
def site(rig: Rig) -> Site:
    return Site(rig)


@pytest.mark.provokes("agent-unreachable")
def test_an_agent_that_does_not_run(site: Site) -> None:
    told(site.type("status", "--api", site.a.api), "agent-unreachable")
    site.start("host-a")
    assert "db1" in site.works("status", "--api", site.a.api)
    told(site.prepare(), "agent-unreachable")
    site.start("host-b")
    assert site.prepare().returncode == 0


@pytest.mark.provokes("unknown-peer")
def test_a_host_that_is_no_peer(site: Site) -> None:
    peer = f'[[peer]]\nname = "host-b"\napi = "{site.b.address}"\n'
    site.text("host-a", peer, "")
    site.start()
    refused = site.prepare()
    assert refused.returncode == 2
    assert site.works("explain", refused.stderr).startswith("unknown-peer")
    site.text("host-a", "[[guest]]", f"{peer}[[guest]]")
    site.reload("host-a")
    site.logged("host-a", "were read again")
    assert site.prepare().returncode == 0


@pytest.mark.provokes("handover-under-way")
def test_a_second_handover(site: Site) -> None:
    site.start()
    assert site.prepare("--id", "h1").returncode == 0
    told(site.prepare("--id", "h2"), "handover-under-way")
    site.works("handover", "rollback", "db1", "--at", site.a.api)
    assert site.prepare("--id", "h2").returncode == 0


@pytest.mark.provokes("different-settings")
def test_a_setting_that_the_other_host_has_not(site: Site) -> None:
    site.text("host-b", "migrate-pr=on", "migrate-pr=off")
    site.start()
    site.register()
    told(site.prepare(), "different-settings")
    site.text("host-b", "migrate-pr=off", "migrate-pr=on")
    site.b.kill()
    site.start("host-b")
    assert site.prepare().returncode == 0


@pytest.mark.provokes("one-nexus")
def test_two_hosts_of_one_name(site: Site) -> None:
    site.text("host-b", "iqn.2026-11.org.holdover:host-b", "iqn.2026-11.org.holdover:host-a")
    site.start()
    site.register()
    told(site.prepare(), "one-nexus")
    site.text(
        "host-b",
        'initiator = "iqn.2026-11.org.holdover:host-a"',
        'initiator = "iqn.2026-11.org.holdover:host-b"',
    )
    site.b.kill()
    site.start("host-b")
    assert site.prepare().returncode == 0


@pytest.mark.provokes("journal-damaged")
def test_a_journal_that_is_damaged(site: Site) -> None:
    site.start("host-a")
    site.process("host-a").send_signal(signal.SIGTERM)
    site.process("host-a").wait(600)
    journal, copy = site.rig.folder / "host-a.journal", site.rig.folder / "copy"
    shutil.copy(journal, copy)
    journal.write_bytes(journal.read_bytes()[:2048] + b"\xff" * 4096)
    told(site.type("agent", "--config", str(site.rig.folder / "host-a.toml")), "journal-damaged")
    checked = site.type("journal", "check", str(journal))
    assert checked.returncode == 1
    shutil.copy(copy, journal)
    site.works("journal", "check", str(journal))
    site.start("host-a")


@pytest.mark.provokes("journal-full")
def test_a_journal_that_another_agent_has_open(site: Site) -> None:
    site.start("host-a")
    site.text("host-b", f"{site.rig.folder}/host-b.journal", f"{site.rig.folder}/host-a.journal")
    told(site.type("agent", "--config", str(site.rig.folder / "host-b.toml")), "journal-full")
    site.text("host-b", f"{site.rig.folder}/host-a.journal", f"{site.rig.folder}/host-b.journal")
    site.start("host-b")


@pytest.mark.provokes("record-unreadable")
def test_a_record_that_cannot_be_read(site: Site) -> None:
    site.text("host-a", "[[guest]]", f'[libvirt]\nlock_socket = "{site.rig.folder}/lock.sock"\n[[guest]]')
    state = site.rig.folder / "host-a.state"
    state.mkdir()
    (state / "libvirt.json").write_text("{")
    site.start("host-a")
    site.logged("host-a", "record-unreadable")
    site.works("journal", "check", str(site.rig.folder / "host-a.journal"))
    assert "db1" in site.works("status", "--api", site.a.api)


@pytest.mark.provokes("reload-refused")
def test_a_reload_of_a_wrong_file(site: Site) -> None:
    site.start("host-a")
    site.text("host-a", "[limits]", "[limit]")
    site.reload("host-a")
    site.logged("host-a", "reload-refused")
    site.text("host-a", "[limit]", "[limits]")
    site.reload("host-a")
    site.logged("host-a", "were read again")


@pytest.mark.provokes("open-export")
def test_an_export_without_chap(site: Site) -> None:
    site.text("host-a", "incoming = false", "incoming = false\nexport-open = true")
    site.start("host-a")
    site.logged("host-a", "open-export")
    site.a.kill()
    site.text("host-a", "\nexport-open = true", "")
    site.start("host-a")
    assert "secret" in site.works("guest", "secret", "db1", "--at", site.a.api)


@pytest.mark.provokes("lun-refuses")
def test_a_lun_that_refuses(site: Site) -> None:
    site.start("host-a")
    site.register()
    other = ("--initiator", "iqn.2026-11.org.example:other")
    told(site.type("pr", "reserve", site.target.url(), "--key", "9", "--type", "we", *other), "lun-refuses")
    site.works("pr", "release", site.a.url(), "--key", KEY, "--type", "wero")


@pytest.mark.provokes("two-addresses")
def test_one_target_by_two_addresses(rig: Rig) -> None:
    site = Site(rig, luns=2)
    site.text("host-a", f"{site.target.url(1)},", f"{site.target.url(1).replace('127.0.0.1', 'localhost')},")
    site.start("host-a")
    site.logged("host-a", "explain=two-addresses")
    addresses = [site.target.url(0), site.target.url(1).replace("127.0.0.1", "localhost")]
    doctor = site.type("doctor", "--config", str(site.rig.folder / "host-a.toml")).stdout
    assert f"warning  addresses: guest db1: the drives {' and '.join(addresses)} may be" in doctor
    while "two addresses" not in (status := site.works("status", "--api", site.a.api)):
        for lun in range(2):
            site.type("pr", "status", site.a.url(lun))
    assert all(address.split("/")[2] in status for address in addresses)
    site.logged("host-a", "ends a session of a guest whenever")
    site.text("host-a", "//localhost:", "//127.0.0.1:")
    site.reload("host-a")
    site.logged("host-a", "A disk was attached")
    assert "two addresses" not in site.works("status", "--api", site.a.api)
    said = site.type("doctor", "--config", str(site.rig.folder / "host-a.toml"))
    assert "ok  addresses: " in said.stdout
    for lun in range(2):
        site.works("pr", "status", site.a.url(lun))


@pytest.mark.provokes("doctor")
def test_a_doctor_that_finds_something(site: Site) -> None:
    told(site.type("doctor", "--config", str(site.rig.folder / "host-a.toml")), "doctor")


@pytest.mark.provokes("monitor")
def test_a_migration_without_a_monitor(site: Site) -> None:
    site.start()
    site.register()
    told(site.type("migrate", "db1", "--at", site.a.api, "--to", "host-b"), "monitor")
    site.works("migrate", "db1", "--at", site.a.api, "--to", "host-b", "--reservations-only")


@pytest.mark.provokes("left-registrations")
def test_a_guest_that_is_forgotten_before_its_registrations(site: Site) -> None:
    site.start()
    site.register()
    told(site.type("guest", "forget", "db1", "--at", site.a.api), "left-registrations")
    site.works("guest", "release", "db1", "--at", site.a.api, "--yes")


@pytest.mark.provokes("certificate")
def test_a_certificate_of_another_authority(site: Site) -> None:
    site.start("host-a")
    folder = site.rig.folder / "other"
    site.works("ca", "init", str(folder))
    site.works("ca", "issue", "host-b", "--ca", str(folder))
    pki = [
        "--certificate",
        f"{folder}/host-b.crt",
        "--key",
        f"{folder}/host-b.key",
        "--ca",
        f"{folder}/ca.crt",
    ]
    told(site.type("status", "--api", site.a.address, *pki), "certificate")


@pytest.mark.provokes("machine-type")
def test_a_machine_type_that_nobody_knows(site: Site) -> None:
    site.text("host-a", 'machine = "pc"', 'machine = "virtual-7"')
    site.text("host-a", ",migrate-pr=on", "")
    site.start("host-a")
    site.logged("host-a", "explain=machine-type")
    assert "machine type virtual-7" in site.works("status", "--api", site.a.api)
    site.a.kill()
    site.text("host-a", "[[guest]]", '[[rule]]\nguest = "db1"\nmigrate-pr = "on"\n[[guest]]')
    site.start("host-a")
    site.register()
    process = next(each for each in reversed(site.rig.processes) if each.name == "host-a")
    assert "machine-type" not in process.output()
