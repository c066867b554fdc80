"""Nothing is installed on a machine unless its owner agrees."""

from __future__ import annotations

import io

import pytest

from holdover.demo import vm


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A machine of root without QEMU; what apt-get is told."""
    told: list[list[str]] = []
    monkeypatch.setattr(vm, "missing_qemu_packages", lambda: ["qemu-system-x86"])
    monkeypatch.setattr(vm, "missing_packages", lambda: ["busybox-static"])
    monkeypatch.setattr(vm, "guest_image", lambda: None)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("shutil.which", lambda program: f"/usr/bin/{program}")
    monkeypatch.setattr(vm, "_apt", told.append)
    return told


def test_packages_are_installed_when_the_person_agrees(installed: list[list[str]]) -> None:
    asked: list[str] = []

    def agree(question: str) -> bool:
        asked.append(question)
        return True

    vm.prepare(io.StringIO(), agree)
    assert len(asked) == 1
    assert "busybox-static qemu-system-x86" in asked[0]
    assert [each[1] for each in installed] == ["update", "install"]


def test_nothing_is_installed_otherwise(installed: list[list[str]]) -> None:
    with pytest.raises(vm.VmMissing, match=r"Nothing was installed\. To install them: apt-get install"):
        vm.prepare(io.StringIO(), lambda _: False)
    assert installed == []


def test_a_person_without_a_terminal_does_not_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    from holdover.cli.demo import _agrees

    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert not _agrees("Install them?")
