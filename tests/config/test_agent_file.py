"""An agent's settings: what is refused, and that the message says where and what."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdover.config.agent_file import (
    ConfigError,
    HostPort,
    export_iqn,
    load_config,
    monitor_of,
    parse_host_port,
)
from holdover.iscsi.names import check_iscsi_name

GOOD = """
name = "host-a"
initiator = "iqn.2026-11.org.example:host-a"

[api]
listen = "unix:/run/holdover/a.sock"

[[guest]]
name = "db1"
machine = "pc-q35-10.2"
export = "127.0.0.1:3261"
devices = ["scsi-block,id=d0,drive=iscsi://127.0.0.1/iqn.2026-11.org.example:san/0"]

[[guest]]
name = "db2"
machine = "q35"
export = "127.0.0.1:3262"
incoming = true
devices = ["scsi-block,drive=iscsi://127.0.0.1/iqn.2026-11.org.example:san/1,migrate-pr=off"]

[limits]
step = 2.5
"""


def load(folder: Path, text: str) -> object:
    file = folder / "agent.toml"
    file.write_text(text, encoding="utf-8")
    return load_config(file)


def test_a_file_with_two_guests(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(GOOD, encoding="utf-8")
    config = load_config(file)
    assert [guest.name for guest in config.guest] == ["db1", "db2"]
    assert [guest.incoming for guest in config.guest] == [False, True]
    assert (config.limits.step, config.limits.drain) == (2.5, 30.0)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "host-a"', "", "the key name is missing"),
        ("step = 2.5", "stepp = 2.5", "there is no key stepp"),
        ("step = 2.5", "step = 0", r"limits.step must be more than 0 s"),
        ("step = 2.5", "step = nan", r"limits.step must be more than 0 s, and a number of seconds"),
        ("step = 2.5", "step = inf", r"limits.step must be more than 0 s, and a number of seconds"),
        ("[limits]", "[libvirt]\nanswer_within = nan\n[limits]", "answer_within must be more than 0 s"),
        ("[limits]", "[libvirt]\nanswer_within = inf\n[limits]", "answer_within must be 9 s at most"),
        (
            "[limits]",
            "[exports]\nmax-sessions = 0\n[limits]",
            r"exports.max-sessions must be 1 to 65535, not 0",
        ),
        (
            'export = "127.0.0.1:3261"',
            'export = "0.0.0.0:3261"\nexport-open = true',
            "export-open: 0.0.0.0:3261 can be",
        ),
        (
            "incoming = true",
            "export-initiators = ['db1']",
            "export-initiators, guest.export-addresses: iSCSI name 'db1'",
        ),
        ("incoming = true", "export-addresses = ['h']", "'h' does not appear to be an IPv4 or IPv6 network"),
        (
            'export = "127.0.0.1:3261"',
            "export-open = true",
            "guest db1: sets who may log in to its export, and has no",
        ),
        ('name = "host-a"', 'name = "host-a"\nstate-dir = "x"', "state-dir: 'x': the path must be absolute"),
        ("[limits]", "[exports]\nmax-memory-per-guest = 16\n[limits]", "from the longest command, 32 .MiB."),
        ("[limits]", "[exports]\nmax-memory = 100\n[limits]", "to max-memory, 100; not 128"),
        ("step = 2.5", "step = 'x'", "step: this must be a number"),
        ("unix:/run/holdover/a.sock", "127.0.0.1:7101", r"127.0.0.1:7101 is a TCP address.*api\.sock"),
        ("unix:/run/holdover/a.sock", "0.0.0.0:7101", "every process of this machine, and every page"),
        ("unix:/run/holdover/a.sock", "http://127.0.0.1:7101", "does not speak plain HTTP over TCP"),
        ("unix:/run/holdover/a.sock", "127.0.0.1", "api.listen: '127.0.0.1' is not HOST:PORT"),
        ("127.0.0.1:3261", "127.0.0.1:99999", "guest db1: export: '127.0.0.1:99999' is not HOST:PORT"),
        ('name = "db2"', 'name = "db1"', "guest name 'db1' is used twice"),
        ('name = "db2"', 'name = "a/b"', "guest name 'a/b' contains /"),
        ('name = "db2"', 'name = "d b"', "guest d b: iSCSI name"),
        ('"pc-q35-10.2"', '"pc/q35-10.2"', "guest db1: .*pc/q35-10.2"),
        ("migrate-pr=off", "migrate-pr=maybe", "guest db2: .*migrate-pr.*maybe"),
        ("scsi-block,id=d0", "scsi-hd,id=d0", "guest db1: .*scsi-hd"),
        ("san/0", "san/x", "guest db1: drive: "),
        ("iqn.2026-11.org.example:host-a", "host-a", "initiator: iSCSI name 'host-a'"),
        ("[api]", "[api", "agent.toml: "),
        ('"unix:/run/holdover/a.sock"', '["unix:/a.sock", "h:7411"]', "h:7411 .*holdover ca init"),
        ('"unix:/run/holdover/a.sock"', "[]", "api.listen: give at least one"),
        ("unix:/run/holdover/a.sock", "unix:api.sock", "the path of the socket must be absolute"),
        ("[api]", '[api]\nca = "ca.crt"', "api.certificate, api.key and api.ca belong together"),
        ("[api]", '[api]\nmode = "rw"', "api.mode: 'rw' is not of the form 0660"),
        ("[api]", '[api]\noperators = ["admin-1"]', "api.operators.*: .*give api.certificate"),
        ("[api]", '[[peer]]\nname = "host-a"\napi = "127.0.0.1:1"\n[api]', "peer 'host-a' is this host"),
        ("[api]", '[[peer]]\nname = "b"\napi = "b:1"\n[api]', "peer 'b': agents know each other by cert"),
        ("[api]", '[[peer]]\nname = "b"\napi = "http://b:1"\n[api]', "write b:1, which is HTTPS"),
        ("[api]", '[[peer]]\nname = "b"\napi = "unix:/b"\n[api]', "a Unix socket, which answers operators"),
        ("[api]", '[[peer]]\nname = "b"\napi = "b"\n[api]', "peer 'b': api: 'b' is not HOST:PORT"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, GOOD.replace(old, new, 1))


def test_without_a_word_the_api_is_a_socket_for_operators(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(GOOD.replace('[api]\nlisten = "unix:/run/holdover/a.sock"', ""), encoding="utf-8")
    config = load_config(file)
    assert [str(each) for each in config.api.addresses] == ["unix:/run/holdover/api.sock"]
    assert config.api.mode == "0600"


def test_an_api_for_other_machines(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    api = """
listen = ["0.0.0.0:7411", "unix:/run/holdover/api.sock"]
certificate = "host-a.crt"
key = "host-a.key"
ca = "ca.crt"
operators = ["admin-1"]
"""
    peers = """
[[peer]]
name = "host-b"
api = "host-b.example:7411"

[[peer]]
name = "host-c"
api = "https://127.0.0.1:7103"
"""
    file.write_text(GOOD.replace('listen = "unix:/run/holdover/a.sock"', api) + peers, encoding="utf-8")
    config = load_config(file)
    assert [str(each) for each in config.api.addresses] == ["0.0.0.0:7411", "unix:/run/holdover/api.sock"]
    assert [(peer.name, peer.api) for peer in config.peer] == [
        ("host-b", "host-b.example:7411"),
        ("host-c", "https://127.0.0.1:7103"),
    ]
    file.write_text(
        GOOD.replace('listen = "unix:/run/holdover/a.sock"', api) + peers + peers, encoding="utf-8"
    )
    with pytest.raises(ConfigError, match="peer 'host-b' is named twice"):
        load_config(file)


def test_a_guest_without_devices_is_refused(tmp_path: Path) -> None:
    text = GOOD.replace('["scsi-block,id=d0,drive=iscsi://127.0.0.1/iqn.2026-11.org.example:san/0"]', "[]")
    with pytest.raises(ConfigError, match="guest db1: has no device to export"):
        load(tmp_path, text)


WITH_HELPERS = (
    GOOD
    + """
[helper]
socket = "/run/h/all.sock"
mode = "0600"

[[guest]]
name = "vm1"
machine = "pc-q35-7.2"
helper = "/run/h/vm1.sock"
qmp = "/run/q/vm1.sock"

[[rule]]
guest = "win-*"
lun = "naa.6001405*"
migrate-pr = "on"
adopt = true

[qmp]
socket = "/run/q/{name}-{uuid}.sock"
"""
)


def test_a_file_with_helpers_rules_and_monitors(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(WITH_HELPERS, encoding="utf-8")
    config = load_config(file)
    assert config.guest[2].helper == "/run/h/vm1.sock"
    assert config.guest[2].devices == ()
    assert [(rule.guest, rule.lun, rule.migrate_pr, rule.adopt) for rule in config.rule] == [
        ("win-*", "naa.6001405*", "on", True)
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'helper = "/run/h/vm1.sock"',
            'helper = "vm1.sock"',
            "guest.helper: 'vm1.sock': .* must be absolute",
        ),
        ('qmp = "/run/q/vm1.sock"', 'qmp = "vm1.sock"', "guest.qmp: 'vm1.sock': .* must be absolute"),
        ("/run/h/vm1.sock", "/run/h/all.sock", r"guest vm1: helper: /run/h/all.sock is that of \[helper\]"),
        ('lun = "naa.6001405*"', 'lun = "6001405*"', r"rule.lun: '6001405\*' matches no designator"),
        ('migrate-pr = "on"', 'migrate-pr = "yes"', "'yes' is not one of 'off', 'on'"),
        ('guest = "win-*"', 'guets = "win-*"', "there is no key guets"),
        ("{name}-{uuid}", "all", "qmp.socket: '/run/q/all.sock' must have {name}, {uuid} or {pid}"),
        ("{name}-{uuid}", "{name}{user}", "must have {name}, {uuid} or {pid} and no others"),
        ("{name}-{uuid}", "{name", "qmp.socket: '/run/q/{name.sock': "),
        ("/run/q/{name}", "q/{name}", "qmp.socket: .* must be absolute"),
        ('mode = "0600"', 'mode = "rw"', "helper.mode: 'rw'"),
    ],
)
def test_what_cannot_be_used_of_these_is_refused_by_name(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in WITH_HELPERS
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, WITH_HELPERS.replace(old, new, 1))


def test_two_guests_cannot_have_one_socket(tmp_path: Path) -> None:
    again = '[[guest]]\nname = "vm2"\nmachine = "pc"\nhelper = "/run/h/vm1.sock"\n'
    with pytest.raises(ConfigError, match=r"guest vm2: helper: /run/h/vm1.sock is that of guest vm1"):
        load(tmp_path, WITH_HELPERS + again)


def test_a_guest_with_a_socket_of_its_own_needs_no_other(tmp_path: Path) -> None:
    text = WITH_HELPERS.replace('[helper]\nsocket = "/run/h/all.sock"\nmode = "0600"\n', "")
    load(tmp_path, text)
    with pytest.raises(ConfigError, match=r"guest vm1: has no export, and there is no \[helper\] socket"):
        load(tmp_path, text.replace('helper = "/run/h/vm1.sock"\n', ""))


def test_where_a_guests_monitor_is(tmp_path: Path) -> None:
    text = WITH_HELPERS.replace("/run/q/{name}-{uuid}", f"{tmp_path}/{{name}}-{{uuid}}-{{pid}}")
    file = tmp_path / "agent.toml"
    file.write_text(text, encoding="utf-8")
    config = load_config(file)
    assert monitor_of(config, "vm1", None, 7) == Path("/run/q/vm1.sock")
    assert monitor_of(config, "x", "00-11", 7) is None
    found = tmp_path / "x-00-11-7.sock"
    found.touch()
    assert monitor_of(config, "x", "00-11", 7) == found
    assert monitor_of(config, "x", None, 7) is None
    assert monitor_of(config, "../x", "00-11", 7) is None
    assert monitor_of(config, "x", "../00-11", 7) is None


def test_a_device_id_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    device = '"scsi-block,id=d0,drive=iscsi://127.0.0.1/iqn.2026-11.org.example:san/0"'
    with pytest.raises(ConfigError, match="guest db1: device id 'd0' is used twice"):
        load(tmp_path, GOOD.replace(device, f"{device}, {device}"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: No such file"):
        load_config(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("localhost:1", HostPort("localhost", 1)),
        ("[::1]:3260", HostPort("::1", 3260)),
        ("a:0", HostPort("a", 0)),
    ],
)
def test_addresses(text: str, address: HostPort) -> None:
    assert parse_host_port(text, "x") == address
    assert parse_host_port(str(address), "x") == address


@pytest.mark.parametrize("text", ["", ":", "a", "a:", ":1", "a:-1", "::1:3260", "a:1x"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^--listen: "):
        parse_host_port(text, "--listen")


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.9", True), ("::1", True), ("localhost", True), ("10.0.0.1", False), ("example.org", False)],
)
def test_loopback(host: str, loopback: bool) -> None:
    assert HostPort(host, 1).loopback is loopback


def test_the_name_of_an_export_is_an_iscsi_name() -> None:
    assert check_iscsi_name(export_iqn("db1")).endswith(":guest.db1")
