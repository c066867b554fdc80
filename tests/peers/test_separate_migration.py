"""Live migrations between hosts that share a network and a SAN alone: each agent drives its host's QEMU.

The guest's firmware is guest enough; QEMU's own word says where it runs. After each failure the guest runs on
exactly one host with its reservation, or its end and the next command are named.
"""

from __future__ import annotations

import json
import signal
import time

import pytest

from tests.rig.hosts import until
from tests.rig.separate_pair import SIDES, Pair
from tests.rig.separate_site import GUEST, SAN

pytestmark = [
    pytest.mark.peer("qemu-system-x86", "qemu-block-extra"),
    pytest.mark.xdist_group("separate-hosts"),
]


def test_a_guest_moves_and_comes_back_by_commands_on_its_hosts(pair: Pair) -> None:
    guest, here, there = pair.guest, pair.here, pair.there
    rehearsed = pair.migrate("--dry-run")
    assert rehearsed.returncode == 0, rehearsed.stdout + rehearsed.stderr
    assert "what is tracked is what the LUN says" in rehearsed.stdout
    assert f"QEMU on {there} waits for the guest" in rehearsed.stdout
    pair.at_home_on(here)
    done = pair.migrate()
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"moved from {here} to {there}" in done.stdout
    pair.at_home_on(there)
    # this QEMU waits at an address that its agent reads
    guest.qemus[here].kill()
    guest.start(here, f"tcp:{guest.site[here].address}:4444")
    back = guest.migrate(there, here, "--json")
    assert back.returncode == 0, back.stdout + back.stderr
    state = json.loads(back.stdout)
    assert state["moved"] is True
    assert state["standstill_ms"] > 0
    pair.at_home_on(here)


def test_what_cannot_work_is_refused_before_anything_is_changed(pair: Pair) -> None:
    guest, there = pair.guest, pair.there
    guest.qemus[there].kill()
    refused = pair.migrate()
    assert refused.returncode == 1
    assert f"QEMU on {there}" in refused.stderr
    guest.start(there)  # it runs something, and waits for nobody
    refused = pair.migrate("--dry-run")
    assert refused.returncode == 1
    assert "does not wait for a guest" in refused.stderr
    guest.qemus[there].kill()
    pair.at_home_on(pair.here)


def test_a_command_that_is_killed_changes_nothing_and_one_that_is_interrupted_cancels(pair: Pair) -> None:
    guest, here, there = pair.guest, pair.here, pair.there
    guest.slow_down(here)
    command = guest.begin(here, there)
    pair.reaches("copying")
    command.kill()
    pair.reaches("copying")
    attached = guest.site[here].start("migrations", "attach", GUEST)
    until(lambda: "opening" in attached.output(), "the command shows nothing")
    attached.send(signal.SIGINT)
    until(lambda: not attached.running, "the command that was interrupted does not end")
    assert "it was cancelled" in attached.output()
    assert pair.reaches("stayed").reason
    pair.at_home_on(here)
    assert guest.state(there) == "none"
    # the next try goes through, though nobody waits for it
    guest.start(there, "defer")
    guest.speed_up(here)
    detached = pair.migrate("--detach")
    assert detached.returncode == 0, detached.stderr
    pair.reaches("moved")
    pair.at_home_on(there)


def test_both_agents_are_killed_while_the_memory_is_copied_and_it_goes_on(pair: Pair) -> None:
    pair.guest.slow_down(pair.here)
    pair.migrate("--detach")
    pair.reaches("copying")
    for name in SIDES:
        pair.restart_agent(name)
    pair.reaches("copying")
    pair.guest.speed_up(pair.here)
    pair.reaches("moved")
    pair.at_home_on(pair.there)


@pytest.mark.long
def test_a_destination_whose_qemu_dies_leaves_the_guest_where_it_was(pair: Pair) -> None:
    pair.guest.slow_down(pair.here)
    pair.migrate("--detach")
    pair.reaches("copying")
    pair.guest.qemus[pair.there].kill()
    assert pair.reaches("stayed").reason
    pair.at_home_on(pair.here)
    # the next test moves the same QEMU's guest
    pair.guest.speed_up(pair.here)


def killed_at(pair: Pair, phase: str, when: str) -> None:
    """The source's agent has been killed when it was about to record a phase, or right after that."""
    pair.restart_agent(pair.here, HOLDOVER_KILL_AT=f"migration-{phase}:1:{when}")
    pair.migrate("--detach")
    agent = pair.guest.site.agents[pair.here]
    until(lambda: not agent.running, "the agent was not killed")


@pytest.mark.long
def test_an_agent_killed_in_pre_switchover_ends_with_the_guest_on_one_host(pair: Pair) -> None:
    killed_at(pair, "switching", "before")
    assert pair.guest.running_on() == []
    pair.guest.site.start_agent(pair.here)
    pair.ends_on_one_host()


@pytest.mark.long
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    "phase", ["preparing", "opening", "copying", "switching", "starting", "finishing", "fetching", "moved"]
)
def test_a_source_agent_killed_at_any_phase(pair: Pair, phase: str, when: str) -> None:
    killed_at(pair, phase, when)
    pair.guest.site.start_agent(pair.here)
    if (phase, when) == ("preparing", "before"):
        # nothing of the migration was on record, and nothing was changed
        pair.at_home_on(pair.here)
        return
    pair.ends_on_one_host()


@pytest.mark.long
@pytest.mark.parametrize("source", [True, False], ids=["source", "destination"])
@pytest.mark.parametrize("phase", ["copying", "switching", "starting", "finishing"])
def test_a_qemu_and_the_source_agent_die_together(pair: Pair, phase: str, source: bool) -> None:
    guest = pair.guest
    killed_at(pair, phase, "before")
    guest.qemus[pair.here if source else pair.there].kill()
    guest.site.start_agent(pair.here)
    pair.ends_soundly()


@pytest.mark.long
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("state", ["registering", "prepared", "preempting", "committed", "verifying", "here"])
def test_a_destination_agent_killed_at_any_state_of_the_handover(pair: Pair, state: str, when: str) -> None:
    pair.restart_agent(pair.there, HOLDOVER_KILL_AT=f"{state}:1:{when}")
    pair.migrate("--detach")
    agent = pair.guest.site.agents[pair.there]
    until(lambda: not agent.running, "the agent was not killed")
    pair.guest.site.start_agent(pair.there)
    pair.ends_on_one_host()


@pytest.mark.long
def test_a_partition_between_the_hosts_while_the_memory_is_copied(pair: Pair) -> None:
    guest = pair.guest
    guest.slow_down(pair.here)
    pair.migrate("--detach")
    pair.reaches("copying")
    guest.site.hosts.cut(*SIDES)
    cancelled = guest.site[pair.here].holdover("migrations", "cancel", GUEST, timeout=600)
    guest.site.hosts.mend(*SIDES)
    assert cancelled.returncode == 0, cancelled.stdout + cancelled.stderr
    pair.at_home_on(pair.here)


@pytest.mark.long
@pytest.mark.parametrize("seconds", [1, 10, 60])
@pytest.mark.parametrize("between", ["hosts", "source and SAN", "destination and SAN"])
def test_a_partition_at_the_switch_over(pair: Pair, between: str, seconds: int) -> None:
    guest, here, there = pair.guest, pair.here, pair.there
    cut = {
        "hosts": (here, there),
        "source and SAN": (here, SAN),
        "destination and SAN": (there, SAN),
    }[between]
    guest.slow_down(here)
    pair.migrate("--detach")
    pair.reaches("copying")
    guest.site.hosts.cut(*cut)
    try:
        guest.speed_up(here)
        time.sleep(seconds)
    finally:
        guest.site.hosts.mend(*cut)
    pair.ends_on_one_host()


@pytest.mark.long
@pytest.mark.parametrize(
    "options",
    [
        ("--bandwidth", "100", "--max-downtime", "50", "--auto-converge"),
        ("--multifd", "2"),
        ("--compression", "zlib"),
        ("--tls",),
        ("--postcopy",),
    ],
    ids=lambda options: options[0],
)
def test_options_of_the_stream(pair: Pair, options: tuple[str, ...]) -> None:
    done = pair.migrate(*options)
    assert done.returncode == 0, done.stdout + done.stderr
    pair.at_home_on(pair.there)


@pytest.mark.long
def test_a_copy_that_takes_too_long_is_aborted_or_the_guest_is_stopped(pair: Pair) -> None:
    guest, here, there = pair.guest, pair.here, pair.there
    guest.slow_down(here)
    late = pair.migrate("--timeout", "1")
    assert late.returncode == 1
    assert "not copied within 1 s (--timeout)" in late.stderr
    pair.at_home_on(here)
    guest.start(there, "defer")
    command = guest.begin(here, there, "--timeout", "1", "--timeout-action", "suspend")
    until(lambda: guest.state(here) == "paused", "the guest is not stopped")
    changed = guest.site[here].holdover("migrations", "set", GUEST, "--bandwidth", "100")
    assert changed.returncode == 0, changed.stderr
    until(lambda: not command.running, "the command does not end")
    assert f"moved from {here} to {there}" in command.output()
    pair.at_home_on(there)


@pytest.mark.long
def test_a_source_that_dies_while_the_guest_stands_still_is_taken_from(pair: Pair) -> None:
    guest, here, there = pair.guest, pair.here, pair.there
    killed_at(pair, "starting", "before")
    guest.qemus[here].kill()
    assert guest.running_on() == []
    taken = guest.site[there].holdover("handover", "take", GUEST)
    assert taken.returncode == 0, taken.stdout + taken.stderr
    pair.at_home_on(there)
    # the dead host comes back, and changes nothing
    guest.site.start_agent(here)
    state = pair.reaches("moved", "stayed")
    assert state.moved
    pair.at_home_on(there)


BUSY = bytes.fromhex("b80020 8ec0 31ff 26fe05 81c70010 75f7 050010 3d0090 72eb b80020 ebe6").ljust(510, b"\0")
"""A boot sector that goes on and on writing into each of 112 pages (8086: es:di from 2000:0 to 9000:0)."""


@pytest.mark.long
def test_postcopy_fetches_memory_while_the_guest_runs_on_the_destination(pair: Pair) -> None:
    guest, here, there = pair.guest, pair.here, pair.there
    for name, incoming in ((here, None), (there, "defer")):
        guest.qemus[name].kill()
        (guest.site[name].var / "busy").write_bytes(BUSY + b"\x55\xaa")
        drive = "if=floppy,format=raw,readonly=on,file=/var/lib/holdover/busy"
        guest.start(name, incoming, "-drive", drive, "-boot", "a")
    guest.slow_down(here, 300_000)
    done = pair.migrate("--postcopy", "--max-downtime", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert guest.tell(here, "query-migrate")["ram"]["postcopy-bytes"] > 0
    pair.at_home_on(there)


@pytest.mark.long
def test_a_guest_that_was_shut_down_is_started_on_the_other_host(pair: Pair) -> None:
    guest, here, there = pair.guest, pair.here, pair.there
    guest.qemus[there].kill()
    running = guest.site[there].holdover("guest", "start", GUEST)
    assert running.returncode == 1
    assert f"guest {GUEST} runs on {here}" in running.stderr
    guest.qemus[here].kill()
    started = until(
        lambda: (done := guest.site[there].holdover("guest", "start", GUEST)).returncode == 0 and done,
        f"{here} does not notice that the guest has ended",
    )
    assert started
    assert f"was handed over from {here}" in started.stdout
    guest.start(there)
    pair.at_home_on(there)
