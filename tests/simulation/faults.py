"""What goes wrong by itself, and is mended again: agents, machines, LUNs and the network."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import TypeVar

from tests.simulation.clockwork import Process, until
from tests.simulation.guests import Vm
from tests.simulation.machines import Machine
from tests.simulation.multipath import HostPaths
from tests.simulation.network import Network
from tests.simulation.operators import Operator
from tests.simulation.rates import Rates
from tests.simulation.san import Lun, Outage
from tests.simulation.transcript import Transcript

_STRIKES, _STRIKES_ON_READS = 0.05, 0.01
"""How likely a fault comes with an agent's own command that changes registrations, or that does not."""

_STRIKES_ALONE = 0.3
"""How likely it is while a host has no power, where operators act without that host."""

_OUTAGES = 0.1
"""How many times a second a LUN has an outage, where LUNs have any."""

Work = Coroutine[object, object, None]
T = TypeVar("T")


async def now_and_then(random: Random, rate: float, what: Callable[[], Work]) -> None:
    """Do something again and again for ever, ``rate`` times a second in the mean."""
    while rate:
        await asyncio.sleep(random.expovariate(rate))
        await what()


@dataclass(frozen=True, slots=True)
class Faults:
    """The faults of one run.

    ``path_failures``: how many times a second a path of a multipath device fails. ``strikes``: whether faults
    come while an agent changes registrations. ``fences``: what a third node does to a LUN then. ``over``:
    whether nothing goes wrong any more. ``journals``: whether agents are started with another file.
    ``alone``: whether more goes wrong while a host has no power. ``outages``: whether LUNs have outages.
    """

    world: Process
    random: Random
    rates: Rates
    machines: dict[str, Machine]
    luns: list[Lun]
    vms: list[Vm]
    operators: list[Operator]
    network: Network
    log: Transcript
    path_failures: float
    strikes: bool
    fences: Callable[[Lun], Work]
    over: Callable[[], bool]
    journals: bool
    alone: bool
    outages: bool

    def all(self) -> Iterator[Work]:
        """Everything that happens now and then, for ever."""
        rates = self.rates
        for machine in self.machines.values():
            yield self._each(rates.crash, self._crash, machine)
            yield self._each(rates.restart, self._restart, machine)
            yield self._each(rates.host_death, self.lose_host, machine)
            for disk in machine.multipaths.values():
                yield now_and_then(self.random, self.path_failures, partial(self._fail_path, machine, disk))
        for lun in self.luns:
            yield self._each(rates.hang, self._hang, lun)
            yield self._each(rates.power_loss, self._lose_lun, lun)
            yield self._each(rates.lun_reset, self._reset, lun)
            yield self._each(_OUTAGES if self.outages else 0, self._fail_lun, lun)
        yield now_and_then(self.random, rates.partition, self._part)

    def strike(self, host: str, lun: Lun, *, changed: bool) -> None:
        """Perhaps something goes wrong right after an agent has sent a command by itself.

        ``changed``: whether the command has changed registrations.
        """
        random = self.random
        rate = _STRIKES if changed else _STRIKES_ON_READS
        is_alone = self.alone and any(each.dead for each in self.machines.values())
        if self.alone:
            rate = _STRIKES_ALONE if is_alone else 2 * rate
        if not self.strikes or random.random() > rate:
            return
        here = self.machines[host]
        there = self.machines[random.choice([name for name in self.machines if name != host])]
        paths = [(each, disk) for each in self.machines.values() for disk in each.multipaths.values()]
        deaths: list[Callable[[], Work]] = [
            partial(self._crash, here),
            partial(self._crash, there),
            partial(self.lose_host, here),
            partial(self.lose_host, there),
            partial(self._reset, lun),
            partial(self._hang, lun),
            partial(self._lose_lun, lun),
        ]
        what = [] if is_alone else deaths
        what += [
            *[partial(self.fences, lun)] * 5,
            *[partial(self._lose_answers, lun)] * 3,
            *[partial(self._fail_path, *each) for each in paths],
            *[partial(self._fail_lun, lun)] * (8 if self.outages else 0),
        ]
        if self.alone and not is_alone:
            what += [partial(self.lose_host, here), partial(self.lose_host, there)] * 3
        chosen = random.choice(what)
        seconds = random.choice((0.0, 0.001, 0.01, 0.1)) * random.random()

        def begin() -> None:
            if not self.over():
                self.world.create_task(chosen())

        self.world.call_later(seconds, begin)

    def _each(self, rate: float, what: Callable[[T], Work], of: T) -> Work:
        return now_and_then(self.random, rate, lambda: what(of))

    def _a_while(self, *seconds: float) -> Coroutine[object, object, None]:
        return asyncio.sleep(self.random.choice(seconds) * self.random.random())

    async def _crash(self, machine: Machine) -> None:
        if machine.process is None:
            return
        machine.crash()
        await self._a_while(0.1, 1, 20)
        self._come_back(machine)

    async def _restart(self, machine: Machine) -> None:
        if machine.host is None:
            return
        await machine.stop()
        await self._a_while(0.1, 1)
        elsewhere = [each.name for each in self.vms if each.place != machine.name]
        if self.journals and elsewhere and machine.process is None and not machine.dead:
            await machine.start_with_another_file(self.random.choice(elsewhere))
        self._come_back(machine)

    def _come_back(self, machine: Machine) -> None:
        if machine.process is None and not machine.dead:
            machine.start()

    async def lose_host(self, machine: Machine) -> None:
        """A machine loses its power; it comes back when nobody wants its guests taken any more."""
        if machine.dead:
            return
        self.log.line(machine.name, "THE MACHINE LOSES ITS POWER")
        machine.dead = True
        machine.crash()
        for vm in self.vms:
            if vm.place == machine.name:
                vm.kill()
        await self._a_while(*((30, 60) if self.alone else (5, 30)))
        await self.bring_back(machine)

    async def bring_back(self, machine: Machine) -> None:
        """Give a machine its power again, as soon as nobody wants its guests taken."""
        await until(lambda: all(each.source != machine.name or each.waits for each in self.operators))
        if machine.dead:
            self.log.line(machine.name, "the machine is back")
            machine.dead = False
            self._come_back(machine)

    async def _fail_path(self, machine: Machine, disk: HostPaths) -> None:
        path = self.random.randrange(len(disk.nexuses))
        if path in disk.down:
            return
        self.log.line(disk.sender.host, f"{disk.lun.name}: PATH {path} FAILS")
        disk.fail(path)
        await self._a_while(1, 10, 60)
        if path in disk.down:
            self.log.line(disk.sender.host, f"{disk.lun.name}: path {path} is back")
            disk.restore(path, has_daemon=not machine.dead)

    async def _hang(self, lun: Lun) -> None:
        self.log.line(lun.name, "HANGS")
        lun.hang()
        await self._a_while(1, 10)
        self.log.line(lun.name, "works again")
        lun.work()

    async def _lose_answers(self, lun: Lun) -> None:
        lun.losing = self.random.choice((1, 1, 2, 3, 8, 16))
        self.log.line(lun.name, f"LOSES THE NEXT {lun.losing} COMMANDS OR ANSWERS")

    async def _fail_lun(self, lun: Lun) -> None:
        lun.outage = self.random.choice((Outage.OFFLINE, Outage.FULL, Outage.BREAKING))
        self.log.line(lun.name, lun.outage.value)
        await self._a_while(0.1, 1, 10)
        lun.outage = Outage.NONE
        self.log.line(lun.name, lun.outage.value)

    async def _lose_lun(self, lun: Lun) -> None:
        self.log.line(lun.name, "LOSES ITS POWER")
        lun.lose_power()

    async def _reset(self, lun: Lun) -> None:
        self.log.line(lun.name, "is reset")
        lun.reset()

    async def _part(self) -> None:
        names = self.random.sample(sorted(self.machines), 2)
        pair = frozenset(names)
        self.log.line("network", f"{names[0]} and {names[1]} ARE PARTED")
        self.network.cut.add(pair)
        await self._a_while(1, 10)
        self.log.line("network", f"{names[0]} and {names[1]} reach one another again")
        self.network.cut.discard(pair)
