"""Which files `holdover libvirt setup` changes, where it refuses, and what `undo` puts back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.libvirt.setup_plan import (
    AGENT_FILE,
    APPARMOR,
    APPARMOR_LOCAL,
    FILES,
    QEMU_CONF,
    QEMU_LOCKD_CONF,
    SELINUX,
    SELINUX_MODULE,
    SOCKET_DROP_IN,
    SetupPlan,
    lock_manager,
    plan_setup,
    plan_undo,
)

FRESH: dict[str, str | None] = dict.fromkeys(FILES) | {
    QEMU_CONF: '# Accepted values\n#lock_manager = "lockd"\nuser = "root"\n',
    AGENT_FILE: 'name = "a"\n',
}


def after(files: dict[str, str | None], plan: SetupPlan) -> dict[str, str | None]:
    assert not plan.refusals
    return files | {each.path: each.after for each in plan.changes}


def test_a_host_is_set_up_once_and_put_back() -> None:
    plan = plan_setup(FRESH)
    files = after(FRESH, plan)
    assert {each.path for each in plan.changes} == {QEMU_CONF, SOCKET_DROP_IN, AGENT_FILE}
    assert lock_manager(files[QEMU_CONF] or "") == "lockd"
    assert 'lock_socket = "/run/holdover/lock.sock"' in (files[AGENT_FILE] or "")
    assert plan_setup(files) == SetupPlan((), (), plan.commands)
    assert after(files, plan_undo(plan.changes, files)) == FRESH


def test_apparmor_and_selinux_get_rules_where_they_are_in_use() -> None:
    files = FRESH | {APPARMOR: "#include <abstractions/base>\n", APPARMOR_LOCAL: "/mine r,"}
    files |= {SELINUX: "SELINUX=enforcing\n"}
    plan = plan_setup(files)
    made = after(files, plan)
    assert made[APPARMOR_LOCAL] == "/mine r,\n/{,var/}run/holdover/*.sock rw,\n"
    assert "svirt_t" in (made[SELINUX_MODULE] or "")
    assert f"semodule -i {SELINUX_MODULE}" in plan.commands
    assert plan_setup(made).changes == ()
    undo = plan_undo(plan.changes, made)
    assert after(made, undo) == files
    assert "semodule -r holdover-libvirt" in undo.commands
    without = plan_setup(FRESH | {SELINUX: "SELINUX=disabled\n"})
    assert not {APPARMOR_LOCAL, SELINUX_MODULE} & {each.path for each in without.changes}


def test_what_the_operator_wrote_is_kept() -> None:
    files = FRESH | {AGENT_FILE: 'name = "a"\n[libvirt]\nlock_socket = "/run/other"'}
    assert AGENT_FILE not in {each.path for each in plan_setup(files).changes}


@pytest.mark.parametrize(
    ("path", "text", "names"),
    [
        (QEMU_CONF, 'lock_manager = "sanlock"\n', "sanlock"),
        (QEMU_CONF, 'lock_manager = "lockd"\n', "virtlockd"),
        (QEMU_LOCKD_CONF, 'file_lockspace_dir = "/var/lib/libvirt/lockd/files"\n', "file_lockspace_dir"),
        (QEMU_CONF, None, "libvirt-daemon-system"),
        (AGENT_FILE, None, "agent.toml"),
    ],
)
def test_it_refuses_by_name(path: str, text: str | None, names: str) -> None:
    (refusal,) = plan_setup(FRESH | {path: text}).refusals
    assert names in refusal


def test_a_comment_is_no_lock_manager_and_the_last_line_counts() -> None:
    assert lock_manager('#lock_manager = "lockd"\n') == ""
    assert lock_manager('lock_manager = "lockd"\nlock_manager = "sanlock" # now\n') == "sanlock"


def test_what_was_edited_since_is_not_put_back() -> None:
    plan = plan_setup(FRESH)
    files = after(FRESH, plan) | {SOCKET_DROP_IN: "[Socket]\n"}
    undo = plan_undo(plan.changes, files)
    assert len(undo.refusals) == 1
    assert SOCKET_DROP_IN in undo.refusals[0]
    # what was put back by hand already is no obstacle
    assert not plan_undo(plan.changes, FRESH).refusals


@given(st.text(max_size=200), st.text(max_size=200))
def test_whatever_the_files_say_the_set_up_can_be_put_back(conf: str, agent: str) -> None:
    files = FRESH | {QEMU_CONF: conf, AGENT_FILE: agent}
    plan = plan_setup(files)
    if plan.refusals:
        return
    assert after(after(files, plan), plan_undo(plan.changes, after(files, plan))) == files
    assert plan_setup(after(files, plan)).changes == ()
