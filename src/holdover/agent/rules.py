"""Rules of the agent's file: what becomes of which guest's reservations on which logical unit."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Literal

import msgspec

from holdover.scsi.inquiry import Designator

__all__ = ["Rule", "Rules", "Undecided"]

_KINDS = ("naa.", "eui.", "t10.", "designator.")
_LITERAL = re.compile(r"[^*?\[]*")


class Undecided(Exception):
    """Which rule comes first depends on the designator of a logical unit that is not known."""


class Rule(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    rename={"migrate_pr": "migrate-pr"},
):
    """One ``[[rule]]``: settings for the devices of guests and logical units that match shell patterns.

    Attributes:
        guest: Matches a guest's name, or its UUID in lower case.
        lun: Matches a designator, "naa.6001405*", in upper or lower case.
        migrate_pr: "on" or "off"; None where this rule leaves it open.
        adopt: Whether a registration is the guest's that it did not make through this agent; as above.
    """

    guest: str = "*"
    lun: str = "*"
    migrate_pr: Literal["on", "off"] | None = None
    adopt: bool | None = None

    def __post_init__(self) -> None:
        if self.migrate_pr is None and self.adopt is None:
            raise ValueError("rule: says nothing; give it migrate-pr or adopt")
        for name, pattern in (("guest", self.guest), ("lun", self.lun)):
            if not pattern:
                raise ValueError(f"rule.{name}: the pattern is empty and matches nothing; * matches all")
            opened = pattern.rfind("[")
            if opened >= 0 and "]" not in pattern[opened + 2 :]:
                raise ValueError(f"rule.{name}: {pattern!r}: the bracket is not closed; [[] matches one")
        literal = _LITERAL.match(self.lun.lower())
        start = literal[0] if literal is not None else ""
        if not any(kind.startswith(start) or start.startswith(kind) for kind in _KINDS):
            raise ValueError(
                f"rule.lun: {self.lun!r} matches no designator; they begin with {', '.join(_KINDS)} "
                "and holdover status shows them"
            )


class Rules:
    """The rules of one agent: of those that say something of a setting, the first that matches wins."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._rules = tuple(rules)

    def migrate_pr(self, names: Iterable[str], designator: Designator | None) -> bool | None:
        """What the rules say of a guest's device; None: nothing, so the machine type decides.

        ``names`` are the guest's name and its UUID in lower case, as far as they are known.

        Raises:
            Undecided: ``designator`` is None and a rule that may be the first one asks for it.
        """
        for rule in self._matching(names, designator, [each for each in self._rules if each.migrate_pr]):
            return rule.migrate_pr == "on"
        return None

    def adopt(self, names: Iterable[str], designator: Designator | None) -> bool | None:
        """As `migrate_pr`; None: where there is one explanation."""
        with_adopt = [each for each in self._rules if each.adopt is not None]
        for rule in self._matching(names, designator, with_adopt):
            return rule.adopt
        return None

    def _matching(
        self, names: Iterable[str], designator: Designator | None, rules: Iterable[Rule]
    ) -> Iterator[Rule]:
        known = tuple(names)
        for rule in rules:
            if not any(fnmatchcase(name, rule.guest) for name in known):
                continue
            if rule.lun != "*" and designator is None:
                raise Undecided(rule.lun)
            if rule.lun == "*" or fnmatchcase(str(designator).lower(), rule.lun.lower()):
                yield rule
