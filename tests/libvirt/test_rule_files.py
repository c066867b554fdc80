"""The rules for AppArmor and SELinux that `holdover libvirt setup` writes: their own compilers take them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from holdover.libvirt.setup_plan import APPARMOR, APPARMOR_LOCAL, SELINUX, SELINUX_MODULE, plan_setup
from tests.libvirt.test_setup_plan import FRESH, after
from tests.rig.packages import needs

_PROFILE = "profile holdover-test {{\n  {rule}\n}}\n"
_BASE = """
(handleunknown allow)
(mls true)
(class sock_file (getattr write))
(class unix_stream_socket (connectto))
(classorder (sock_file unix_stream_socket))
(sensitivity s0)
(sensitivityorder (s0))
(user system_u)
(role system_r)
(userrole system_u system_r)
(userlevel system_u (s0))
(userrange system_u ((s0) (s0)))
(typeattribute cil_gen_require)
(type svirt_t)
(type virtd_t)
(type var_run_t)
(type unconfined_service_t)
(roletype system_r virtd_t)
(sid kernel)
(sidorder (kernel))
(sidcontext kernel (system_u system_r virtd_t ((s0) (s0))))
"""
"""The least policy that has what the module needs, by the names of the reference policy."""


@pytest.fixture(scope="module")
def written() -> dict[str, str]:
    files = FRESH | {APPARMOR: "#include <abstractions/base>\n", SELINUX: "SELINUX=enforcing\n"}
    return {path: text or "" for path, text in after(files, plan_setup(files)).items()}


@pytest.mark.parametrize("broken", [False, True], ids=["as written", "broken"])
def test_apparmor_takes_the_rule(tmp_path: Path, written: dict[str, str], broken: bool) -> None:
    needs("apparmor")
    rule = written[APPARMOR_LOCAL].strip().rstrip("," if broken else "")
    file = tmp_path / "profile"
    file.write_text(_PROFILE.format(rule=rule))
    done = subprocess.run(["/sbin/apparmor_parser", "-Q", "-K", file], capture_output=True, check=False)
    assert (done.returncode != 0) is broken, done.stderr


@pytest.mark.parametrize("broken", [False, True], ids=["as written", "broken"])
def test_selinux_takes_the_module(tmp_path: Path, written: dict[str, str], broken: bool) -> None:
    needs("secilc")
    base, module = tmp_path / "base.cil", tmp_path / "module.cil"
    base.write_text(_BASE.replace("(type svirt_t)\n", "") if broken else _BASE)
    module.write_text(written[SELINUX_MODULE])
    out = ("-o", str(tmp_path / "policy"), "-f", str(tmp_path / "contexts"))
    done = subprocess.run(["secilc", *out, base, module], capture_output=True, check=False)
    assert (done.returncode != 0) is broken, done.stderr
