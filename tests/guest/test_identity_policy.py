from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.guest.identity_policy import (
    IdentityRule,
    ProcessClaim,
    ProcessIdentity,
    Trust,
    cgroup_unit,
    judge,
    may_replace,
)

LIBVIRT = r"/machine.slice/machine-qemu\x2d{}\x2d{}.scope"


def of_libvirt(guest: str, uid: int = 64055, label: str = "", number: int = 1) -> ProcessIdentity:
    path = LIBVIRT.format(number, guest.replace("-", r"\x2d")) + "/libvirt/emulator"
    return ProcessIdentity(uid, cgroup_unit(path), label)


SHELL = ProcessIdentity(1000, "/user.slice/user-1000.slice/session-*.scope")
NOBODY = ProcessIdentity(65534, "/user.slice/user-65534.slice/session-*.scope")
SERVICE = ProcessIdentity(107, "/system.slice/vm@db1.service")


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("/", "/"),
        ("", ""),
        (LIBVIRT.format(12, "db1") + "/libvirt/emulator", LIBVIRT.format("*", "db1")),
        (LIBVIRT.format(3, r"1\x2ddb1"), LIBVIRT.format("*", r"1\x2ddb1")),
        ("/system.slice/vm@db1.service/sub/tree", "/system.slice/vm@db1.service"),
        ("/user.slice/user-0.slice/session-c12.scope", "/user.slice/user-0.slice/session-*.scope"),
        ("/system.slice/run-u815.service", "/system.slice/run-*.service"),
        ("/system.slice/run-r0a1b2c.scope (deleted)", "/system.slice/run-*.scope"),
    ],
)
def test_what_differs_between_two_starts_is_left_out(path: str, unit: str) -> None:
    assert cgroup_unit(path) == unit


class TestLegitimateChanges:
    """Changes that an operator makes, and that need no word of his."""

    def test_libvirt_starts_it_again(self) -> None:
        before, now = of_libvirt("db1", number=1), of_libvirt("db1", number=17)
        assert judge("db1", "db1", now, before, None) is Trust.CERTAIN

    def test_dynamic_ownership_gives_it_another_user(self) -> None:
        assert judge("db1", "db1", of_libvirt("db1", 107), of_libvirt("db1", 64055), None) is Trust.CERTAIN

    def test_it_moves_from_a_shell_to_libvirt(self) -> None:
        assert judge("db1", "db1", of_libvirt("db1"), SHELL, None) is Trust.CERTAIN

    def test_it_arrives_by_a_migration(self) -> None:
        assert judge("db1", "db1", of_libvirt("db1"), None, None) is Trust.CERTAIN
        assert judge("db1", "db1", SERVICE, None, None) is Trust.CLAIMED

    def test_its_service_starts_it_again(self) -> None:
        assert judge("db1", "db1", SERVICE, SERVICE, None) is Trust.RECORDED

    def test_libvirt_draws_other_categories(self) -> None:
        first = ProcessIdentity(107, SERVICE.cgroup, "system_u:system_r:svirt_t:s0:c1,c2")
        second = ProcessIdentity(107, SERVICE.cgroup, "system_u:system_r:svirt_t:s0:c8,c9")
        assert judge("db1", "db1", second, first, None) is Trust.RECORDED

    def test_the_kernel_is_started_with_labels_or_without(self) -> None:
        labelled = ProcessIdentity(107, SERVICE.cgroup, "libvirt-1234 (enforce)")
        assert judge("db1", "db1", labelled, SERVICE, None) is Trust.RECORDED
        assert judge("db1", "db1", SERVICE, labelled, None) is Trust.RECORDED

    def test_the_operator_says_so(self) -> None:
        rule = IdentityRule(uid=1000, cgroup="/user.slice/user-1000.slice/*")
        assert judge("db1", "db1", SHELL, SERVICE, rule) is Trust.CERTAIN

    def test_what_a_refusal_tells_to_write_is_accepted(self) -> None:
        said = judge("db1", "db1", SHELL, SERVICE, None)
        assert isinstance(said, str)
        assert f"[[rule]] guest = \"db1\" uid = 1000 cgroup = '{SHELL.cgroup}'" in said
        assert judge("db1", "db1", SHELL, SERVICE, IdentityRule(1000, SHELL.cgroup)) is Trust.CERTAIN


class TestAttacks:
    @pytest.mark.parametrize("known", [SERVICE, of_libvirt("db1"), SHELL])
    def test_another_user_is_refused(self, known: ProcessIdentity) -> None:
        said = judge("db1", "db1", NOBODY, known, None)
        assert isinstance(said, str)
        assert str(known) in said

    def test_another_guests_qemu_is_refused_though_it_is_of_the_same_user(self) -> None:
        for known in (None, SERVICE, of_libvirt("db1")):
            said = judge("db1", "db1", of_libvirt("db2"), known, None)
            assert isinstance(said, str)
            assert "its cgroup is that of libvirt's guest db2" in said

    def test_the_uuid_of_another_guest_does_not_help(self) -> None:
        # its own name is right for its scope, and the UUID is that of db1
        assert isinstance(judge("db1", "db2", of_libvirt("db2"), of_libvirt("db1"), None), str)

    @pytest.mark.parametrize(
        "cgroup",
        [
            "/user.slice/user-65534.slice/user@65534.service" + LIBVIRT.format(1, "db1"),
            "/user.slice/user-65534.slice" + LIBVIRT.format(1, "db1"),
            "/system.slice/docker-1234.scope" + LIBVIRT.format(1, "db1"),
            "/machine.slice/libpod-1234.scope" + LIBVIRT.format(1, "db1"),
            "/" + LIBVIRT.format(1, "db1").rpartition("/")[2],
            "/delegated" + LIBVIRT.format(1, "db1"),
        ],
    )
    def test_a_scope_that_others_than_root_can_make_is_not_libvirts_word(self, cgroup: str) -> None:
        now = ProcessIdentity(65534, cgroup_unit(cgroup))
        assert judge("db1", "db1", now, None, None) is Trust.CLAIMED
        assert isinstance(judge("db1", "db1", now, of_libvirt("db1"), None), str)

    def test_a_rule_is_stronger_than_what_was_seen_first(self) -> None:
        rule = IdentityRule(uid=107)
        assert isinstance(judge("db1", "db1", NOBODY, NOBODY, rule), str)
        assert judge("db1", "db1", SERVICE, NOBODY, rule) is Trust.CERTAIN

    def test_libvirts_own_word_is_stronger_than_what_was_seen_first_and_weaker_than_a_rule(self) -> None:
        other = of_libvirt("db2")
        assert judge("db1", "db1", other, NOBODY, None, named=True) is Trust.CERTAIN
        assert isinstance(judge("db1", "db1", NOBODY, None, IdentityRule(uid=107), named=True), str)

    def test_names_that_libvirt_cuts_or_changes_prove_nothing(self) -> None:
        name = "x" * 60
        cut = ProcessIdentity(107, LIBVIRT.format("*", "x" * 52))
        assert judge(name, name, cut, None, None) is Trust.CLAIMED
        assert judge(name, name, cut, cut, None) is Trust.RECORDED
        assert isinstance(judge("y" * 60, "y" * 60, cut, None, None), str)
        assert judge("db.-_1", "db.-_1", of_libvirt("db.1"), None, None) is Trust.CERTAIN


identities = st.builds(
    ProcessIdentity,
    st.sampled_from((0, 107, 65534)),
    st.sampled_from((SERVICE.cgroup, NOBODY.cgroup, of_libvirt("db1").cgroup, of_libvirt("db2").cgroup, "/")),
    st.sampled_from(("", "unconfined", "libvirt-1 (enforce)")),
)
rules = st.none() | st.builds(
    IdentityRule,
    st.none() | st.sampled_from((107, 65534)),
    st.sampled_from(("*", "/system.slice/*")),
)


@given(identities, st.none() | identities, rules)
def test_a_claim_is_accepted_only_for_a_reason(
    now: ProcessIdentity, known: ProcessIdentity | None, rule: IdentityRule | None
) -> None:
    verdict = judge("db1", "db1", now, known, rule)
    scoped = now.cgroup == of_libvirt("db1").cgroup
    match verdict:
        case Trust.CERTAIN:
            assert not rule.mismatches(now) if rule is not None else scoped
        case Trust.RECORDED:
            assert known is not None
            assert (now.uid, now.cgroup) == (known.uid, known.cgroup)
        case Trust.CLAIMED:
            assert known is None
        case _:
            assert str(verdict)
            assert rule is not None or not scoped


@given(identities, identities)
def test_once_on_record_the_same_process_is_always_accepted(
    now: ProcessIdentity, other: ProcessIdentity
) -> None:
    first = judge("db1", "db1", now, None, None)
    if isinstance(first, Trust):
        again = judge("db1", "db1", now, now, None)
        assert isinstance(again, Trust)
        assert again >= first
        # and nobody else of another user or unit, but libvirt's own scope of the guest
        if (other.uid, other.cgroup) != (now.uid, now.cgroup) and other.cgroup != of_libvirt("db1").cgroup:
            assert isinstance(judge("db1", "db1", other, now, None), str)


CLAIMS = [ProcessClaim(trust, shown) for trust, shown in product(Trust, (False, True))]


def test_who_takes_whose_place() -> None:
    claimed, recorded, certain = (ProcessClaim(trust) for trust in Trust)
    with_disk = {trust: ProcessClaim(trust, shown=True) for trust in Trust}
    # a process without a disk keeps nobody out that has it, or is known better
    assert may_replace(with_disk[Trust.CLAIMED], claimed)
    assert may_replace(recorded, claimed)
    assert may_replace(certain, recorded)
    # not even one with a disk of its own keeps out whom libvirt has started
    assert may_replace(certain, with_disk[Trust.CLAIMED])
    # a guest that runs, as it has run before, stays
    assert not any(may_replace(each, with_disk[Trust.RECORDED]) for each in CLAIMS)
    assert not any(may_replace(each, with_disk[Trust.CERTAIN]) for each in CLAIMS)
    assert not may_replace(with_disk[Trust.CLAIMED], recorded)


def test_no_two_processes_can_take_each_others_place() -> None:
    for one, other in product(CLAIMS, CLAIMS):
        assert not (may_replace(one, other) and may_replace(other, one))
    assert not any(may_replace(each, each) for each in CLAIMS)
