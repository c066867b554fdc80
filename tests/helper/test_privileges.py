from __future__ import annotations

import grp
import os
import pwd
import subprocess
import sys
import threading

import pytest

from holdover.helper.privileges import PrivilegeError, UserIdentity, drop_privileges, resolve_identity


def test_users_and_groups_have_names_or_numbers() -> None:
    me, mine = pwd.getpwuid(os.getuid()), grp.getgrgid(os.getgid())
    assert resolve_identity(me.pw_name, mine.gr_name) == UserIdentity(me.pw_uid, mine.gr_gid)
    assert resolve_identity("4711", "4712") == UserIdentity(4711, 4712)
    assert resolve_identity(None, "4712") == UserIdentity(os.getuid(), 4712)
    assert resolve_identity("4711", None) == UserIdentity(4711, os.getgid())


@pytest.mark.parametrize(("user", "group"), [("no-such-name", None), (None, "no-such-name")])
def test_unknown_names_are_refused(user: str | None, group: str | None) -> None:
    with pytest.raises(ValueError, match="no-such-name"):
        resolve_identity(user, group)


def test_beside_other_threads_nothing_is_dropped() -> None:
    go_on = threading.Event()
    other = threading.Thread(target=go_on.wait)
    other.start()
    try:
        with pytest.raises(PrivilegeError, match="other threads"):
            drop_privileges(UserIdentity(os.getuid(), os.getgid()))
    finally:
        go_on.set()
        other.join()


UNPRIVILEGED = """
import os
from holdover.helper.privileges import UserIdentity, PrivilegeError, drop_privileges
if os.getuid() == 0:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
try:
    drop_privileges(UserIdentity(65534, 65534))
except PrivilegeError as error:
    print(error)
"""


def test_without_the_right_to_drop_them_it_says_so() -> None:
    done = subprocess.run([sys.executable, "-c", UNPRIVILEGED], capture_output=True, text=True, check=False)
    assert "Operation not permitted" in done.stdout, done.stderr
