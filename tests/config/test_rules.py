"""Rules of the agent's file: the first that matches wins, and what can never match is refused."""

from __future__ import annotations

import msgspec
import pytest

from holdover.config.rules import Rule, Rules, Undecided
from holdover.scsi.inquiry import Designator

NAA = Designator.parse("naa.6001405aaaaa")
EUI = Designator.parse("eui.0025385b")


def rules(*texts: str) -> Rules:
    """Rules, each as in a file."""
    return Rules(msgspec.toml.decode(f"[r]\n{text}", type=dict[str, Rule])["r"] for text in texts)


def test_the_first_that_matches_wins() -> None:
    some = rules(
        'guest = "win-*"\nlun = "naa.6001405*"\nmigrate-pr = "off"',
        'guest = "win-*"\nmigrate-pr = "on"',
        'guest = "win-7"\nmigrate-pr = "off"',
    )
    assert some.migrate_pr(["win-7"], NAA) is False
    assert some.migrate_pr(["win-7"], EUI) is True
    assert some.migrate_pr(["db1"], NAA) is None


def test_a_guest_matches_by_its_name_as_it_is_written_or_by_its_uuid() -> None:
    some = rules('guest = "1111-*"\nmigrate-pr = "on"', 'guest = "DB[12]"\nmigrate-pr = "off"')
    assert some.migrate_pr(["x", "1111-2222"], NAA) is True
    assert some.migrate_pr(["DB2"], NAA) is False
    assert some.migrate_pr(["db2"], NAA) is None


def test_a_designator_matches_in_upper_case_too() -> None:
    assert rules('lun = "NAA.6001405AAAAA"\nmigrate-pr = "on"').migrate_pr(["x"], NAA) is True


def test_each_setting_has_its_own_first_rule() -> None:
    some = rules("adopt = false", 'guest = "db*"\nmigrate-pr = "on"\nadopt = true')
    assert some.migrate_pr(["db1"], NAA) is True
    assert some.adopt(["db1"], NAA) is False
    assert rules('migrate-pr = "on"').adopt(["db1"], NAA) is None


def test_without_a_designator_it_is_undecided_only_where_that_matters() -> None:
    some = rules(
        'guest = "a"\nmigrate-pr = "on"', 'lun = "naa.*"\nmigrate-pr = "off"', 'lun = "eui.*"\nadopt = true'
    )
    assert some.migrate_pr(["a"], None) is True
    with pytest.raises(Undecided, match=r"naa\.\*"):
        some.migrate_pr(["b"], None)
    with pytest.raises(Undecided, match=r"eui\.\*"):
        some.adopt(["a"], None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('guest = "a"', "rule: sets nothing; add migrate-pr, adopt, uid, cgroup or label"),
        ('guest = ""\nadopt = true', "rule.guest: the pattern is empty"),
        ('lun = ""\nadopt = true', "rule.lun: the pattern is empty"),
        ('guest = "db[12"\nadopt = true', r"rule.guest: 'db\[12': the bracket is not closed"),
        ('guest = "db[]"\nadopt = true', "the bracket is not closed"),
        (
            'lun = "6001405*"\nadopt = true',
            r"rule.lun: '6001405\*' matches no designator; they begin with naa",
        ),
        ('migrate-pr = "maybe"', "Invalid enum value 'maybe'"),
        ('migrate_pr = "on"', "unknown field `migrate_pr`"),
        ("adopt = 1", "Expected `bool"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        rules(text)


@pytest.mark.parametrize("lun", ["*", "n*", "naa.*", "?aa.6*", "[ne]*", "T10.VENDOR*", "designator.8.*"])
def test_patterns_of_designators_that_may_match(lun: str) -> None:
    assert Rule(lun=lun, adopt=True).lun == lun
