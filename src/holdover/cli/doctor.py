"""``holdover doctor``: looks at everything on which an agent of this host stands."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
from rich.markup import escape

from holdover.cli.errors import refuse
from holdover.cli.libvirt.checks import host_checks
from holdover.config.agent_file import AgentConfig, ConfigError, load_config
from holdover.doctor.agents import agent_checks, peer_checks
from holdover.doctor.files import file_checks
from holdover.doctor.finding import Finding, Verdict, ok, wrong
from holdover.doctor.luns import lun_checks
from holdover.doctor.programs import multipath_checks, qemu_checks
from holdover.terminal import screen

_STYLES = {Verdict.OK: "green", Verdict.WARNING: "yellow", Verdict.WRONG: "red", Verdict.UNKNOWN: "cyan"}


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """The document of ``--json``; ``healthy`` is false if a finding has the verdict "wrong"."""

    healthy: bool
    findings: tuple[Finding, ...]


def run(file: Path, json: bool) -> None:
    """Make all checks and show what they found. Exit with 1 if something is wrong."""
    findings = tuple(diagnose(file))
    bad = sum(each.verdict is Verdict.WRONG for each in findings)
    if json:
        print(msgspec.json.encode(Diagnosis(healthy=not bad, findings=findings)).decode())
    else:
        _show(findings)
    if bad:
        refuse(f"doctor: {bad} of {len(findings)} checks have found something wrong", 1)


def diagnose(file: Path) -> list[Finding]:
    """What all checks have found, in the order in which they depend on one another."""
    try:
        config = load_config(file)
    except ConfigError as error:
        problem = wrong("configuration", str(error), "correct the file (docs/reference/configuration.md)")
        return [problem, *qemu_checks(), *multipath_checks()]
    found = [ok("configuration", f"{file} can be used"), *file_checks(config)]
    found += asyncio.run(_ask(config))
    found += [*qemu_checks(), *multipath_checks()]
    if config.libvirt is not None:
        found += [
            ok("libvirt", each.text) if each.works else wrong("libvirt", each.text, "holdover libvirt check")
            for each in host_checks()
        ]
    return found


async def _ask(config: AgentConfig) -> list[Finding]:
    found, state = await agent_checks(config)
    return [*found, *await peer_checks(config), *await lun_checks(config, state)]


def _show(findings: tuple[Finding, ...]) -> None:
    console = screen()
    for each in findings:
        style = _STYLES[each.verdict]
        mark = f"[{style}]{each.verdict.value:>8}[/]"
        console.print(f"{mark}  {escape(each.check)}: {escape(each.text)}", soft_wrap=True)
        if each.todo:
            console.print(f"          do: {escape(each.todo)}", soft_wrap=True)
