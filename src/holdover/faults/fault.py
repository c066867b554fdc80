"""One fault as people write it: what happens, to which commands, how often.

    latency=20ms,opcode=WRITE_10,probability=0.1
    drop-connection,when=after,action=PREEMPT,count=1
    status=busy,initiator=iqn.2026-11.org.example:db*,lun=0,after=10

A fault has one of the effects below; `latency` stands alone or beside another effect. A key that selects
commands (opcode, action, lun, initiator) may come several times: then a command with any of the values fits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from fnmatch import fnmatchcase
from typing import TypeVar

from holdover.scsi.cdbs.opcodes import OperationCode, OutServiceAction
from holdover.scsi.command import Command
from holdover.scsi.nexus import ITNexus
from holdover.scsi.reservation.transport_id import IscsiTransportID
from holdover.scsi.status import Status

_UNITS = {"us": 1, "ms": 1000, "s": 1_000_000}
_LATENCY = re.compile(r"([0-9]{1,10}(?:\.[0-9]{1,6})?)(us|ms|s)")
_LONGEST = 3600 * _UNITS["s"]
_NUMBER = re.compile(r"[0-9]{1,9}")
_BYTE = re.compile(r"0x[0-9a-f]{1,2}", re.IGNORECASE)
_FRACTION = re.compile(r"[0-9]*\.?[0-9]+(e-[0-9]{1,3})?", re.IGNORECASE)
_STATUSES = {
    "busy": Status.BUSY,
    "reservation-conflict": Status.RESERVATION_CONFLICT,
    "task-set-full": Status.TASK_SET_FULL,
}


class FaultError(ValueError):
    """The text of a fault is wrong; the message names the wrong word."""


class Effect(StrEnum):
    """The effect of a fault on a command."""

    LATENCY = "latency"
    """The command takes longer."""
    LOSE_RESPONSE = "lose-response"
    """The command is carried out, and its answer is never sent."""
    STATUS = "status"
    """The command is not carried out; the answer is a status."""
    DROP_CONNECTION = "drop-connection"
    """The connection of the command is cut, and the command gets no answer."""
    POWER_LOSS = "power-loss"
    """The logical unit loses its power, and has it back at once: it forgets what is not durable."""


class When(StrEnum):
    """Whether an effect comes before the command is carried out, or after."""

    BEFORE = "before"
    AFTER = "after"


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    Attributes:
        effect: The effect on the command.
        latency: The delay in microseconds, beside any other effect.
        status: The status of the answer when `effect` is STATUS; None for every other effect.
        when: Whether latency, cut and power loss come before the command is carried out, or after.
        opcodes: The operation codes that the fault fits; empty for all.
        actions: The service actions of PERSISTENT RESERVE OUT that the fault fits; empty for all.
        luns: The logical unit numbers that the fault fits; empty for all.
        initiators: Patterns of the initiator names that the fault fits, with *, ? and [...], in lower case;
            empty for all.
        probability: The probability that the fault strikes a command that it fits, above 0 and up to 1.
        count: The most commands that the fault strikes; None for no limit.
        after: The number of commands that fit and that the fault lets pass first.
    """

    effect: Effect
    latency: int = 0
    status: Status | None = None
    when: When = When.BEFORE
    opcodes: tuple[int, ...] = ()
    actions: tuple[int, ...] = ()
    luns: tuple[int, ...] = ()
    initiators: tuple[str, ...] = ()
    probability: float = 1.0
    count: int | None = None
    after: int = 0

    def fits(self, lun: int, nexus: ITNexus, command: Command) -> bool:
        """Whether the fault is meant for a command. Does not look at `count`, `after` and `probability`."""
        if self.opcodes and command.opcode not in self.opcodes:
            return False
        if self.luns and lun not in self.luns:
            return False
        if self.actions and _out_action(command) not in self.actions:
            return False
        return not self.initiators or any(fnmatchcase(_name(nexus), each) for each in self.initiators)

    def __str__(self) -> str:
        """The text from which `parse_fault` makes the same fault."""
        words = []
        if self.effect is Effect.STATUS:
            words += [f"status={name}" for name, status in _STATUSES.items() if status is self.status]
        elif self.effect is not Effect.LATENCY:
            words.append(self.effect.value)
        if self.latency:
            words.append(f"latency={_latency_text(self.latency)}")
        if self.when is not When.BEFORE:
            words.append(f"when={self.when}")
        words += [f"opcode={_name_of(OperationCode, each)}" for each in self.opcodes]
        words += [f"action={_name_of(OutServiceAction, each)}" for each in self.actions]
        words += [f"lun={each}" for each in self.luns]
        words += [f"initiator={each}" for each in self.initiators]
        if self.probability != 1.0:
            words.append(f"probability={self.probability!r}")
        if self.count is not None:
            words.append(f"count={self.count}")
        if self.after:
            words.append(f"after={self.after}")
        return ",".join(words)


def parse_fault(text: str) -> Fault:
    """The fault in a text. A power loss without a count happens once.

    Raises:
        FaultError: A word is unknown, missing or one too many, or a value is wrong. The message names it.
    """
    words = _Words(text)
    effect = words.effect()
    latency = words.one("latency", _latency, 0)
    if "when" in words.values:
        if effect is Effect.STATUS:
            raise words.error("when: has no meaning with status, which replaces the command; leave it out")
        if effect is Effect.LOSE_RESPONSE and not latency:
            problem = "when: has no meaning with lose-response, which always comes after the command"
            raise words.error(f"{problem}; leave it out")
    opcodes, actions = words.many("opcode", _opcode), words.many("action", _action)
    if actions and set(opcodes) - {OperationCode.PERSISTENT_RESERVE_OUT}:
        raise words.error("action: is only for PERSISTENT_RESERVE_OUT; leave out every other opcode")
    return Fault(
        effect=effect,
        latency=latency,
        status=words.one("status", _status, None),
        when=words.one("when", _when, When.BEFORE),
        opcodes=opcodes,
        actions=actions,
        luns=words.many("lun", lambda value: _number(value, 0, 16383)),
        initiators=words.many("initiator", str.lower),
        probability=words.one("probability", _probability, 1.0),
        count=words.one("count", lambda value: _number(value, 1), 1 if effect is Effect.POWER_LOSS else None),
        after=words.one("after", lambda value: _number(value, 0), 0),
    )


_Value = TypeVar("_Value")
_ALONE = (Effect.LOSE_RESPONSE, Effect.DROP_CONNECTION, Effect.POWER_LOSS)
_SEVERAL = ("opcode", "action", "lun", "initiator")
_ONCE = ("latency", "status", "when", "probability", "count", "after")


@dataclass(slots=True)
class _Words:
    """The words of one text: the words that stand alone, and the values of the words that have a value."""

    text: str
    alone: list[Effect] = field(default_factory=list)
    values: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for word in self.text.split(","):
            key, equals, value = word.partition("=")
            if key in _ALONE:
                if equals:
                    raise self.error(f"{key} takes no value")
                self.alone.append(Effect(key))
            elif key not in _SEVERAL and key not in _ONCE:
                choices = ", ".join((*_ALONE, *_ONCE, *_SEVERAL))
                raise self.error(f"unknown word {key!r}; the words are {choices}")
            elif not value:
                raise self.error(f"{key} needs a value: {key}=...")
            elif key in self.values and key in _ONCE:
                raise self.error(f"{key} is given twice; give it once")
            else:
                self.values.setdefault(key, []).append(value)

    def effect(self) -> Effect:
        """The one effect of the fault; latency when the text has no other effect."""
        found = [*self.alone, *([Effect.STATUS] if "status" in self.values else [])]
        if len(found) > 1:
            raise self.error(f"{' and '.join(found)} cannot both happen; give two faults")
        if found:
            return found[0]
        if "latency" not in self.values:
            raise self.error("the effect is missing: add latency=, status= or one of " + ", ".join(_ALONE))
        return Effect.LATENCY

    def one(self, key: str, read: Callable[[str], _Value], default: _Value) -> _Value:
        """The value of a word that may come once."""
        return self._read(key, self.values[key][0], read) if key in self.values else default

    def many(self, key: str, read: Callable[[str], _Value]) -> tuple[_Value, ...]:
        """The values of a word that may come several times."""
        return tuple(dict.fromkeys(self._read(key, value, read) for value in self.values.get(key, ())))

    def error(self, problem: str) -> FaultError:
        """An error that names the text and the problem."""
        return FaultError(f"fault {self.text!r}: {problem}")

    def _read(self, key: str, value: str, read: Callable[[str], _Value]) -> _Value:
        try:
            return read(value)
        except ValueError as error:
            raise self.error(f"{key}={value} {error}") from None


def _latency(value: str) -> int:
    match = _LATENCY.fullmatch(value)
    if match is None:
        raise ValueError("is not a number followed by us, ms or s")
    latency = round(float(match[1]) * _UNITS[match[2]])
    if not 1 <= latency <= _LONGEST:
        raise ValueError("is not between 1us and 3600s")
    return latency


def _latency_text(latency: int) -> str:
    unit = next(unit for unit in ("s", "ms", "us") if latency % _UNITS[unit] == 0)
    return f"{latency // _UNITS[unit]}{unit}"


def _status(value: str) -> Status | None:
    return _among(value, _STATUSES)


def _when(value: str) -> When:
    return _among(value, {each.value: each for each in When})


def _opcode(value: str) -> int:
    opcode = _numbered(value, OperationCode, "an operation code")
    if opcode == OperationCode.REPORT_LUNS:
        raise ValueError("is answered for all LUNs together, so no fault can strike it")
    return opcode


def _action(value: str) -> int:
    action = _numbered(value, OutServiceAction, "a service action of PERSISTENT RESERVE OUT")
    if action > 0x1F:
        raise ValueError("is above 0x1f, the highest service action")
    return action


def _probability(value: str) -> float:
    if not _FRACTION.fullmatch(value) or not 0 < float(value) <= 1:
        raise ValueError("is not a number above 0 and up to 1")
    return float(value)


def _number(value: str, least: int, most: int = 999_999_999) -> int:
    if not _NUMBER.fullmatch(value) or not least <= int(value) <= most:
        raise ValueError(f"is not a number from {least} to {most}")
    return int(value)


def _numbered(value: str, names: type[IntEnum], what: str) -> int:
    if _BYTE.fullmatch(value):
        return int(value, 16)
    name = value.upper().replace("-", "_")
    if name not in names.__members__:
        example = next(iter(names.__members__))
        raise ValueError(f"is not {what}: give a name such as {example}, or 0x and a hexadecimal number")
    return int(names[name])


def _name_of(names: type[IntEnum], number: int) -> str:
    known: Iterable[IntEnum] = names
    return next((each.name for each in known if each == number), f"{number:#04x}")


def _among(value: str, choices: Mapping[str, _Value]) -> _Value:
    if value not in choices:
        raise ValueError(f"is not one of {', '.join(choices)}")
    return choices[value]


def _out_action(command: Command) -> int:
    if command.opcode != OperationCode.PERSISTENT_RESERVE_OUT or len(command.cdb) < 2:
        return -1
    return command.cdb[1] & 0x1F


def _name(nexus: ITNexus) -> str:
    initiator = nexus.initiator
    return (initiator.name if isinstance(initiator, IscsiTransportID) else str(initiator)).lower()
