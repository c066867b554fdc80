"""``holdover libvirt``: makes libvirt ask the agent, puts back what was there, and looks whether it works."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from holdover.cli.errors import refuse
from holdover.cli.libvirt.checks import VirshError, domain_checks, domain_xml, host_checks
from holdover.config.agent_file import ConfigError, load_config
from holdover.libvirt.domain_xml import DomainXmlError, with_helper
from holdover.libvirt.setup_plan import FILES, FileChange, SetupPlan, plan_setup, plan_undo

_STATE = "/var/lib/holdover/libvirt-setup.json"
"""What `setup` has changed, for `undo`."""


def setup(root: Path, dry_run: bool, json: bool) -> None:
    """Make the changes that are missing, after the refusals were shown."""
    plan = plan_setup(_read(root))
    if plan.refusals:
        refuse("\nholdover: ".join((*plan.refusals, "nothing was changed")), 1)
    if not dry_run and plan.changes:
        before = {each.path: each for each in _changed(root)}
        kept = {each.path: each for each in plan.changes}
        # what was there before the first set-up is what `undo` puts back
        for path, first in before.items():
            late = kept.get(path)
            kept[path] = first if late is None else FileChange(path, first.before, late.after, late.why)
        _write(root, FileChange(_STATE, None, msgspec.json.encode(tuple(kept.values())).decode(), ""))
        _make(root, plan.changes)
    _show(plan, "would change" if dry_run else "changed", json)


def undo(root: Path, dry_run: bool, json: bool) -> None:
    """Put back what `setup` has changed."""
    changed = _changed(root)
    if not changed:
        refuse(f"{root / _STATE.lstrip('/')}: nothing was set up here by holdover libvirt setup", 1)
    plan = plan_undo(changed, _read(root))
    if plan.refusals:
        refuse("\nholdover: ".join((*plan.refusals, "nothing was changed")), 1)
    if not dry_run:
        _make(root, plan.changes)
        _write(root, FileChange(_STATE, "", None, ""))
    _show(plan, "would put back" if dry_run else "put back", json)


def check(domain: str | None, json: bool) -> None:
    """Print one line for each thing that matters; exit with 1 if something does not work."""
    checks = [*host_checks()]
    if domain is not None:
        checks += domain_checks(domain)
    if json:
        print(msgspec.json.encode(checks).decode())
    else:
        for each in checks:
            print(f"{'ok' if each.works else 'NO'}  {each.text}")
    if not all(each.works for each in checks):
        raise SystemExit(1)


def xml(domain: str, config: Path) -> None:
    """Print the XML of a domain whose disks of the host use the helper that the agent's file names."""
    try:
        helper = load_config(config).helper
        if helper is None or helper.socket is None:
            refuse(f"{config} has no [helper] with a socket for all guests", 1)
        print(with_helper(domain_xml(domain, "--inactive", "--security-info"), helper.socket), end="")
    except (ConfigError, VirshError, DomainXmlError) as error:
        refuse(str(error), 1)


def _read(root: Path) -> dict[str, str | None]:
    return {path: _text(root / path.lstrip("/")) for path in FILES}


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        refuse(f"{path}: {error}", 1)


def _changed(root: Path) -> tuple[FileChange, ...]:
    text = _text(root / _STATE.lstrip("/"))
    if text is None:
        return ()
    try:
        return msgspec.json.decode(text, type=tuple[FileChange, ...])
    except msgspec.DecodeError as error:
        refuse(f"{root / _STATE.lstrip('/')}: {error}", 1)


def _make(root: Path, changes: Sequence[FileChange]) -> None:
    for change in changes:
        _write(root, change)


def _write(root: Path, change: FileChange) -> None:
    path = root / change.path.lstrip("/")
    try:
        if change.after is None:
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.holdover")
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
        fresh.write_text(change.after, encoding="utf-8")
        fresh.chmod(mode)
        fresh.replace(path)
    except OSError as error:
        refuse(f"{path}: {error.strerror}; run holdover libvirt setup, or undo, again as root", 1)


def _show(plan: SetupPlan, did: str, json: bool) -> None:
    if json:
        print(msgspec.json.encode(plan.changes).decode())
        return
    if not plan.changes:
        print("nothing to change")
        return
    for change in plan.changes:
        print(f"{did}: {change.path} ({change.why})")
        print("".join(_difference(change)), end="")
    print("then, guests go on running:")
    for command in plan.commands:
        print(f"  {command}")


def _difference(change: FileChange) -> Iterator[str]:
    before = (change.before or "").splitlines(keepends=True)
    after = (change.after or "").splitlines(keepends=True)
    for line in difflib.unified_diff(before, after, n=1):
        if not line.startswith(("---", "+++")):
            yield f"  {line}" if line.endswith("\n") else f"  {line}\n"
