"""The unit files of systemd that come with the project, read for tests."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

UNITS = Path(__file__).resolve().parents[2] / "systemd"


@dataclass(frozen=True, slots=True)
class Unit:
    """One unit file; a setting may stand there several times."""

    settings: tuple[tuple[str, str, str], ...]

    def all(self, section: str, name: str) -> list[str]:
        """Every value of a setting, in their order."""
        return [value for found, each, value in self.settings if (found, each) == (section, name)]

    def one(self, section: str, name: str) -> str:
        """The value of a setting that is there once."""
        (value,) = self.all(section, name)
        return value

    @property
    def arguments(self) -> list[str]:
        """What ExecStart= gives to `holdover`."""
        program, *arguments = shlex.split(self.one("Service", "ExecStart"))
        assert Path(program).name == "holdover"
        return arguments

    @property
    def limits(self) -> list[str]:
        """The command (setpriv, with a program to follow) that gives a program this unit's capabilities."""
        names = self.one("Service", "CapabilityBoundingSet").lower().replace("cap_", "+").split()
        return [
            "setpriv",
            "--no-new-privs",
            "--inh-caps=-all",
            f"--bounding-set={','.join(['-all', *names])}",
        ]


def read_unit(name: str) -> Unit:
    """A unit file of the project by its name."""
    section, settings = "", []
    for number, line in enumerate((UNITS / name).read_text().splitlines(), 1):
        text = line.strip()
        if text.startswith("[") and text.endswith("]"):
            section = text[1:-1]
        elif text and not text.startswith("#"):
            key, equals, value = text.partition("=")
            assert equals, f"{name}:{number}: {line}"
            settings.append((section, key, value))
    return Unit(tuple(settings))
