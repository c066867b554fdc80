"""What is wrong with an agent's file is said in the file's words, with the choices that there are."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from holdover.config.agent_file import AgentConfig, ConfigError, GuestConfig, Limits, load_config
from holdover.config.toml_problem import explain

START = 'name = "a"\ninitiator = "iqn.2026-11.org.example:a"\n'


def problem(folder: Path, text: str) -> str:
    """What an agent says of a file with that text, without the file's name."""
    file = folder / "agent.toml"
    file.write_text(START + text)
    with pytest.raises(ConfigError) as error:
        load_config(file)
    return str(error.value).removeprefix(f"{file}: ")


@pytest.mark.parametrize(
    ("text", "told", "kind"),
    [
        ("gest = 1\n", "there is no key or section gest; did you mean guest?; there are ", AgentConfig),
        ("[limits]\nstepp = 1\n", "[limits]: there is no key stepp; did you mean step?; there are ", Limits),
        (
            '[[guest]]\nname = "g"\nmachine = "pc"\n[[guest]]\nname = "h"\nmachin = "pc"\n',
            "[[guest]] number 2: there is no key machin; did you mean machine?; there are ",
            GuestConfig,
        ),
        ("[journal]\nfiel = 1\n", "[journal]: there is no key fiel; did you mean file?; there are ", None),
    ],
)
def test_the_nearest_key_and_all_of_its_section_are_named(
    tmp_path: Path, text: str, told: str, kind: type[msgspec.Struct] | None
) -> None:
    error = problem(tmp_path, text)
    assert error.startswith(told)
    for field in () if kind is None else msgspec.structs.fields(kind):
        assert field.encode_name in error


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[[guest]]\nname = "g"\n', "[[guest]] number 1: the key machine is missing"),
        ('[limits]\nstep = "long"\n', '[limits]: step: this must be a number, not text in quotes, "..."'),
        ("state-dir = 5\n", 'state-dir: this must be text in quotes, "...", not a whole number'),
        (
            "[api]\nlisten = 5\n",
            '[api]: listen: this must be text in quotes, "..." or a list, [...], not a whole number',
        ),
        ('[guest]\nname = "g"\n', "[guest]: write [[guest]], once for each"),
        ('[[api]]\nmode = "0600"\n', "[api]: write [api], and only once"),
        (
            '[[guest]]\nname = "g"\nmachine = "pc"\ndevices = [1]\n',
            '[[guest]] number 1: devices number 1: this must be text in quotes, "...", not a whole number',
        ),
        ('[[rule]]\nmigrate-pr = "yes"\n', "[[rule]] number 1: migrate-pr: 'yes' is not one of 'off', 'on'"),
        ("[limits]\nstep = -1\n", "limits.step must be more than 0 s, and a number of seconds"),
        ("x = \n", "Invalid value (at line 3, column 5)"),
    ],
)
def test_other_problems_name_section_and_key(tmp_path: Path, text: str, told: str) -> None:
    assert problem(tmp_path, text) == told


def test_what_is_missing_outside_of_all_sections(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text('name = "a"\n')
    with pytest.raises(ConfigError, match=r": the key initiator is missing$"):
        load_config(file)


def test_what_is_like_no_key_is_not_guessed_at() -> None:
    told = explain("Object contains unknown field `xyzzy` - at `$.limits`", AgentConfig)
    assert "did you mean" not in told
    assert "connect" in told
