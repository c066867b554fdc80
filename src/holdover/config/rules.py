"""Rules of the agent's file: what happens to which guest's reservations on which logical unit."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Literal

import msgspec

from holdover.guest.identity_policy import IdentityRule
from holdover.scsi.inquiry import Designator

_KINDS = ("naa.", "eui.", "t10.", "designator.")
_LITERAL = re.compile(r"[^*?\[]*")


class Undecided(Exception):
    """Which rule matches first depends on the designator of a logical unit, and that is not known."""


class Rule(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    rename={"migrate_pr": "migrate-pr"},
):
    """One ``[[rule]]``: settings for guests and their devices on logical units that match shell patterns.

    Attributes:
        guest: A pattern of the shell, of the guest's name or of its UUID in lower case.
        lun: A pattern of the LUN's designator, as `holdover status` shows it, in upper or lower case. It
            begins with `naa.`, `eui.`, `t10.` or `designator.`
        migrate-pr: Whether reservations of these devices are tracked and move along. The value in a device's
            own options comes first. Without a rule the machine type decides.
        adopt: Whether the agent treats a registration that the guest did not make through this agent as the
            guest's. Without a rule it does if there is one explanation only.
        uid, cgroup, label: What the guest's process must have: the user's number, and patterns of the
            cgroup's unit and of the security label. A process that does not have one of them is not this
            guest. A rule with one of these has no `lun`.
    """

    guest: str = "*"
    lun: str = "*"
    migrate_pr: Literal["on", "off"] | None = None
    adopt: bool | None = None
    uid: int | None = None
    cgroup: str | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        if self.migrate_pr is None and self.adopt is None and self.process is None:
            raise ValueError("rule: sets nothing; add migrate-pr, adopt, uid, cgroup or label")
        if self.process is not None and self.lun != "*":
            raise ValueError("rule.lun: uid, cgroup and label are of a guest's process, whatever its LUN")
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

    @property
    def process(self) -> IdentityRule | None:
        """What this rule demands of the guest's process; None if nothing."""
        if (self.uid, self.cgroup, self.label) == (None, None, None):
            return None
        return IdentityRule(self.uid, self.cgroup, self.label)


class Rules:
    """The rules of one agent. For each setting, the first matching rule that decides the setting wins."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._rules = tuple(rules)

    def reconfigure(self, rules: Iterable[Rule]) -> None:
        """Replace the rules from now on."""
        self._rules = tuple(rules)

    def migrate_pr(self, names: Iterable[str], designator: Designator | None) -> bool | None:
        """What the rules say of a guest's device; None: nothing, so the machine type decides.

        ``names`` are the guest's name and its UUID in lower case, as far as they are known.

        Raises:
            Undecided: ``designator`` is None, and a rule that may match first needs the designator.
        """
        for rule in self._matching(names, designator, [each for each in self._rules if each.migrate_pr]):
            return rule.migrate_pr == "on"
        return None

    def adopt(self, names: Iterable[str], designator: Designator | None) -> bool | None:
        """What the rules say of adoption; None: adopt if there is only one explanation. As `migrate_pr`."""
        with_adopt = [each for each in self._rules if each.adopt is not None]
        for rule in self._matching(names, designator, with_adopt):
            return rule.adopt
        return None

    def process(self, names: Iterable[str]) -> IdentityRule | None:
        """What the rules demand of a guest's process; None if nothing."""
        with_process = [each for each in self._rules if each.process is not None]
        for rule in self._matching(names, None, with_process):
            return rule.process
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
