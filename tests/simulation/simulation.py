"""One run: machines, LUNs, guests, operators, third nodes and faults, all of it decided by one seed."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import sys
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from holdover.agent.host import Host
from holdover.guest.gate import Gate
from holdover.lun.reservations import ReservationState
from holdover.scsi.cdbs.cdb import PersistentReserveOut
from holdover.scsi.command import Command, Response
from holdover.scsi.nexus import ITNexus
from tests.simulation.bystanders import Bystander
from tests.simulation.clockwork import Broken, Clockwork, Process, Unforeseen, until
from tests.simulation.faults import Faults, now_and_then
from tests.simulation.features import Odd, features
from tests.simulation.guests import Vm
from tests.simulation.initiators import Initiators
from tests.simulation.logs import Logs
from tests.simulation.machines import Machine
from tests.simulation.mistakes import EVERY, Mistakes
from tests.simulation.network import Network
from tests.simulation.operators import Operator
from tests.simulation.placements import Placement, draw_guests, nexuses_of
from tests.simulation.promises import Ledger
from tests.simulation.rates import NONE, Rates, draw
from tests.simulation.san import REGISTERS, Lun, Outage, Sender
from tests.simulation.third import Third
from tests.simulation.transcript import Transcript

_HOSTS = ("host-a", "host-b", "host-c")
_CALM_SECONDS = 400.0
"""The virtual seconds within which every handover ends when nothing goes wrong any more."""
_RESERVED_SECONDS = 100.0  # after these, sessions end that may have a LUN reserved by RESERVE
_MENDED_AFTER = 30.0
"""The virtual seconds after which hosts that refuse one another are put right."""

_LONGEST_SECONDS = 100_000.0


class Failure(Exception):
    """A run has shown that a promise is broken, or that an error was not foreseen."""


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one seed.

    Attributes:
        seed: The seed.
        handovers: How many handovers were simulated.
        problem: What was broken; empty where nothing was.
        transcript: What happened, if it was asked for.
    """

    seed: int
    handovers: int
    problem: str
    transcript: tuple[str, ...] = ()


class Simulation:
    """A run of one seed."""

    def __init__(self, seed: int, handovers: int, *, transcript: bool = False) -> None:
        self.seed = seed
        self.random = random = Random(seed)
        self.clockwork = clockwork = Clockwork()
        self.world = clockwork.process("world")
        self.log = Transcript(transcript, lambda: clockwork.now)
        can = features(seed)
        self.rates = draw(random)
        if can.surprises.strikes:
            rates = self.rates
            self.rates = replace(rates, host_death=max(rates.host_death, 0.015), third=max(rates.third, 0.2))
        if can.surprises.alone:
            rates = self.rates
            self.rates = replace(rates, host_death=max(rates.host_death, 0.005), third=max(rates.third, 0.3))
        numbers = itertools.count(1)
        self.network = Network(self.world, random, self.log)
        self.luns = [
            Lun(
                f"lun{number}",
                self.world,
                random,
                self,
                self.log,
                full_status=can.full_status,
                target_ports=can.layout.target_ports,
            )
            for number in range(random.choice((1, 1, 2)))
        ]
        self.ledgers = {lun.name: Ledger(lun.name, self.world.time) for lun in self.luns}
        self.issued: dict[int, Command] = {}
        self.surprises = can.surprises
        guests = draw_guests(random, can.surprises, can.layout, self.luns, _HOSTS)
        self._folder = TemporaryDirectory(prefix="holdover-") if can.surprises.exports else None
        self.machines = {
            name: Machine(
                name,
                clockwork,
                self.network,
                random,
                self.log,
                guests,
                list(_HOSTS),
                lambda: next(numbers),
                can.early_commit,
                self.issued,
                self,
                self._state_folder(name),
                can.surprises,
            )
            for name in _HOSTS
        }
        self.network.servers.update(self.machines)
        self.vms = [
            self._vm(name, home, placements, number)
            for number, (name, (home, placements)) in enumerate(guests.items())
        ]
        self.operators = [
            Operator(
                vm,
                self.world,
                random,
                self.network,
                self.machines,
                self.log,
                handovers,
                is_bold=can.surprises.alone,
                lose=self._lose,
            )
            for vm in self.vms
        ]
        self.third = Third(
            self.luns,
            self.ledgers,
            random,
            self.log,
            has_own_key=can.layout.several or can.surprises.odd is Odd.COPY,
            clears=can.surprises.alone,
        )
        for lun in self.luns:
            lun.nonsense = can.surprises.nonsense
            self.ledgers[lun.name].tells_aptpl = not lun.nonsense
        self.network.short_of_memory = can.surprises.memory
        if can.surprises.odd is Odd.OTHER_VERSION:
            self.network.versions[_HOSTS[-1]] = "99.0"
        self.network.remembers = can.surprises.mistakes or can.surprises.slips
        slips, journals = can.surprises.slips, can.surprises.journals
        self.mistakes = Mistakes(
            self.world, random, self.network, self.machines, self.operators, self.log, slips, journals
        )
        self.layout = can.layout
        self.initiators = [Initiators(vm) for vm in self.vms if vm.exported]
        self.bystanders = [Bystander(vm) for vm in self.vms if can.surprises.bystanders]
        self._faults: Faults | None = None
        self._watched = [(vm, number) for vm in self.vms for number in range(len(vm.placements))]
        self._gates: dict[str, list[Gate | None]] = {}
        self._hosts: dict[str, Host | None] = dict.fromkeys(self.machines)

    def _state_folder(self, host: str) -> Path | None:
        return None if self._folder is None else Path(self._folder.name, host)

    def _vm(self, name: str, home: str, placements: list[Placement], number: int) -> Vm:
        for placement in placements:
            if not placement.moved:
                continue
            nexuses = {host: nexuses_of(host, name, placement) for host in _HOSTS}
            self.ledgers[placement.lun.name].add(name, nexuses)
            for host, each in nexuses.items():
                for path_number, nexus in enumerate(each):
                    path = f" by path {path_number}" if len(each) > 1 else ""
                    self.log.names[nexus] = f"{host} for {name}{path}"
        shared = self.random.random() < 0.3
        keys = (0xD1, 0xD2) if shared else (0xA0 + number, 0xB0 + number)
        return Vm(
            name,
            self.world,
            self.random,
            self.log,
            self.machines,
            placements,
            self.ledgers,
            self._other_keys,
            self.issued,
            home,
            keys,
            self.surprises.exports,
        )

    def path_failed(self, lun: Lun, guest: str, nexus: ITNexus) -> None:
        """Note that a path of a guest's disk has failed."""
        self.ledgers[lun.name].path_failed(guest, nexus)

    def doubtful(self, lun: Lun, guest: str) -> None:
        """Note that nobody knows by which paths a change of a guest was carried out."""
        self.ledgers[lun.name].doubt(guest, lun.state)

    def _other_keys(self, placement: Placement) -> list[int]:
        keys = {each.key for each in placement.lun.state.registrations}
        if placement.layout.several:
            # multipathd does not know that a guest has unregistered itself by a PREEMPT of its own key
            ledger = self.ledgers[placement.lun.name]
            keys -= {ledger.truth(name).key for name in ledger.guests}
        return sorted(keys)

    # -- what LUNs have done ------------------------------------------------------------------------

    def observe(
        self,
        lun: Lun,
        sender: Sender,
        nexus: ITNexus,
        command: Command,
        before: ReservationState,
        response: Response,
    ) -> None:
        """Check the promises after a command."""
        after = lun.state
        ledger = self.ledgers[lun.name]
        is_agents = id(command) not in self.issued
        strikes = is_agents or (self.surprises.alone and not self.layout.several)
        if self._faults is not None and sender.guest and strikes:
            self._faults.strike(sender.host, lun, changed=after != before)
        if after != before:
            if not sender.guest and sender.host in self.machines and id(command) not in self.issued:
                raise Broken(f"{lun.name}: the agent of {sender.host} has changed what is not to move")
            if not sender.guest:
                ledger.by_third(before, after)
            elif id(command) in self.issued:
                action = PersistentReserveOut.decode(command.cdb).service_action
                registers = action in REGISTERS
                ledger.by_guest(sender.guest, sender.host, nexus, before, after, registers=registers)
            else:
                ledger.by_agent(sender.guest, sender.host, before, after)
            ledger.require_held(after)
            for vm in self.vms:
                vm.require("")

    def lost_power(self, lun: Lun) -> None:
        """Note that a LUN has lost its power."""
        self.ledgers[lun.name].lost_power(lun.state)

    def _after_each(self, process: Process) -> None:
        """Look at the gates that may have moved: those of the agent whose process ran.

        A new agent has the gates that it finds on record, whatever those of the agent before it were.
        """
        name = process.name
        if name not in self.machines:
            return
        machine = self.machines[name]
        host = machine.host
        if host is not self._hosts[name]:
            self._hosts[name] = host
            self._gates[name] = [None] * len(self._watched)
        if host is None:
            return
        gates, guests = self._gates[name], host.guests
        for index, (vm, number) in enumerate(self._watched):  # this runs after each callback
            guest = guests.get(vm.name)
            gate = None
            if guest is not None and number < len(guest.devices):
                gate = guest.devices[number].block.gate
            was = gates[index]
            if gate is not was:
                gates[index] = gate
                if gate is not None:
                    self._gate_has_moved(name, vm, vm.placements[number].lun, was, gate)

    def _gate_has_moved(self, name: str, vm: Vm, lun: Lun, was: Gate | None, gate: Gate) -> None:
        if self.log.on:
            self.log.line(name, f"{lun.name}: the gate of {vm.name} is {gate.value}")
        if gate is Gate.RUNNING and was is not None and vm.name in self.ledgers[lun.name].guests:
            why = f"the gate of {vm.name} opens on {name}"
            self.ledgers[lun.name].require_runs(vm.name, name, lun.state, why)

    # -- the run ------------------------------------------------------------------------------------

    def run(self) -> Result:
        """Run to the end."""
        problem = ""
        with Logs(self.log, self.clockwork.unforeseen):
            try:
                self._until(self._prologue(), _CALM_SECONDS, "the agents do not start")
                self._set(self.rates)
                self._until(self._trouble(), _LONGEST_SECONDS, "the operators do not come to an end")
                self._set(NONE)
                self._until(self._epilogue(), _CALM_SECONDS, "the handovers do not come to an end")
            except (Broken, Unforeseen, Failure) as error:
                problem = f"{type(error).__name__}: {error}"
                self.log.line("", problem)
            finally:
                self.clockwork.end()
                if self._folder is not None:
                    self._folder.cleanup()
        count = sum(operator.begun for operator in self.operators)
        return Result(self.seed, count, problem, tuple(self.log.lines))

    def _until(self, what: Coroutine[object, object, None], seconds: float, otherwise: str) -> None:
        task = self.world.create_task(what)
        if not self.clockwork.run(task, self.clockwork.now + seconds, self._after_each):
            raise Failure(f"{otherwise} within {seconds:g} s")
        task.result()

    def _set(self, rates: Rates) -> None:
        self.network.rates = rates
        for lun in self.luns:
            lun.rates = rates
        for machine in self.machines.values():
            machine.disk.rates = rates

    async def _prologue(self) -> None:
        for machine in self.machines.values():
            machine.start()
        await until(lambda: all(each.host is not None for each in self.machines.values()))
        for vm in self.vms:
            vm.start(vm.belongs, "at the beginning")
            await vm.settle()

    async def _trouble(self) -> None:
        self.log.line("", f"from now on things go wrong: {self.rates}")
        self._begin(*(vm.work() for vm in self.vms))
        self._begin(*(each.work() for each in self.initiators), *(each.work() for each in self.bystanders))
        self._faults = faults = self._make_faults()
        third = now_and_then(self.random, self.rates.third, self.third.act)
        has_mistakes = self.surprises.mistakes or self.surprises.slips
        mistakes = now_and_then(self.random, EVERY if has_mistakes else 0, self.mistakes.act)
        going_wrong = self._begin(*faults.all(), third, mistakes)
        self.world.call_later(_MENDED_AFTER, self._mend_files)
        works = self._begin(*(operator.work() for operator in self.operators))
        patience = 200.0
        _, late = await asyncio.wait(works, timeout=patience)
        for each in going_wrong:
            each.cancel()
        await asyncio.wait(going_wrong)
        self._faults = None
        self.log.line("", "from now on nothing goes wrong any more")
        self._set(NONE)
        for operator in self.operators:
            operator.hasty = True
        for vm in self.vms:
            vm.calm = True
        self._mend_files()
        self.network.cut.clear()
        for machine in self.machines.values():
            for disk in machine.multipaths.values():
                for path in sorted(disk.down):
                    disk.restore(path, has_daemon=not machine.dead)
        for lun in self.luns:
            lun.work()
            lun.outage = Outage.NONE
        for machine in self.machines.values():
            if machine.dead:
                self._begin(faults.bring_back(machine))
            elif machine.process is None:
                machine.start()
            elif self.surprises.starved:
                self._begin(machine.restart())
        if late:
            _, late = await asyncio.wait(late, timeout=_RESERVED_SECONDS)
        if late:
            await asyncio.gather(*(each.leave_all() for each in self.initiators))
            _, late = await asyncio.wait(late, timeout=_CALM_SECONDS - _RESERVED_SECONDS)
        if late:
            raise Failure(f"an operator has not come to an end {_CALM_SECONDS:g} s after all was well again")
        for work in works:
            work.result()

    def _lose(self, host: str) -> None:
        """Have a host lose its power, if all others have theirs."""
        faults = self._faults
        if faults is not None and not any(each.dead for each in self.machines.values()):
            self.world.create_task(faults.lose_host(self.machines[host]))

    def _mend_files(self) -> None:
        """The administrator has seen that hosts refuse one another."""
        self.network.versions.clear()
        for machine in self.machines.values():
            machine.mend_file()

    def _make_faults(self) -> Faults:
        return Faults(
            self.world,
            self.random,
            self.rates,
            self.machines,
            self.luns,
            self.vms,
            self.operators,
            self.network,
            self.log,
            self.layout.failures,
            self.surprises.strikes,
            self.third.fence,
            lambda: self._faults is None,
            self.surprises.journals,
            self.surprises.alone,
            self.surprises.outages,
        )

    def _begin(self, *works: Coroutine[object, object, None]) -> list[asyncio.Task[None]]:
        return [self.world.create_task(each) for each in works]

    async def _epilogue(self) -> None:
        await until(lambda: all(each.host is not None for each in self.machines.values()))
        later = self.clockwork.now + _RESERVED_SECONDS
        await until(lambda: self._all_closed() or self.clockwork.now > later)
        for each in () if self._all_closed() else self.initiators:
            await each.leave_all()  # a roll back waits for the end of a session that has reserved the LUN
        await until(self._all_closed)
        for vm in self.vms:
            if vm.place is None:
                vm.start(vm.belongs, "at the end")
        await asyncio.sleep(30)
        for each in self.initiators:
            await each.leave_all()
        for vm in self.vms:
            await vm.look()
        await asyncio.sleep(30)
        await until(lambda: self._all_closed() and all(vm.idle for vm in self.vms))
        for vm in self.vms:
            self._check_end(vm)
        for each in self.initiators:
            each.require_free()

    def _all_closed(self) -> bool:
        for machine in self.machines.values():
            for vm in self.vms:
                state = None if machine.host is None else machine.host.handovers.state(vm.name)
                if state is not None and state.open:
                    return False
        return True

    def _check_end(self, vm: Vm) -> None:
        vm.require(" at the end")
        assert vm.place is not None
        for number, placement in enumerate(vm.placements):
            lun, ledger = placement.lun, self.ledgers[placement.lun.name]
            if not placement.moved:
                continue
            for name, machine in self.machines.items():
                device = machine.device(vm.name, number)
                if device is None or (machine.odd in (Odd.OTHER_SETTING, Odd.RUNS) and name != vm.place):
                    continue
                running = device.block.gate is Gate.RUNNING
                if name == vm.place and not device.block.stale:
                    ledger.require_tracked(vm.name, name, device.tracked)
                if running != (name == vm.place):
                    gate = device.block.gate.value
                    raise Broken(f"{lun.name}: {vm.name} runs on {vm.place}, its gate on {name} is {gate}")
                if name != vm.place and not self._is_told(vm, lun):
                    ledger.require_left(vm.name, name, vm.place, lun.state)

    def _is_told(self, vm: Vm, lun: Lun) -> bool:
        for each in self.machines.values():
            assert each.host is not None
            state = each.host.handovers.state(vm.name)
            if state is not None and any(
                one.designator == lun.designator and one.alarm for one in state.luns
            ):
                return True
        return False


@cache
def _freeze_modules() -> None:
    """Keep what the modules have made out of garbage collection: to search it after each seed takes long."""
    gc.collect()
    gc.freeze()


def simulate(seed: int, handovers: int, *, transcript: bool = False) -> Result:
    """Run one seed.

    What killed agents leave behind is destroyed afterwards, when no process runs that its code could touch.
    """
    _freeze_modules()
    is_enabled, hook = gc.isenabled(), sys.unraisablehook
    gc.disable()
    sys.unraisablehook = lambda _: None
    try:
        return Simulation(seed, handovers, transcript=transcript).run()
    finally:
        logging.disable()  # nobody wants to read what they log now
        with Logs(Transcript(False, lambda: 0.0), []):
            gc.collect()
        logging.disable(logging.NOTSET)
        sys.unraisablehook = hook
        if is_enabled:
            gc.enable()
