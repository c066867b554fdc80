"""``holdover guest``: what QEMU or libvirt needs to log in to a guest's export, and cold starts."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import msgspec

from holdover.api.documents import ExportSecret
from holdover.api.migration_documents import StartRequest
from holdover.cli.asking import Asking
from holdover.cli.one_agent import ask_agent


def secret(guest: str, api: str, asking: Asking, json: bool) -> None:
    """Ask the agent for a guest's secret and print it, with the options of QEMU and libvirt."""
    found = ask_agent(api, asking, lambda client: client.secret(guest))
    print(msgspec.json.encode(found).decode() if json else "\n".join(_lines(guest, found)))


def start(guest: str, api: str, without: list[str], asking: Asking, json: bool) -> None:
    """Ask the agent to bring a guest to its host, and say what comes next."""
    request = StartRequest(handover_id=secrets.token_hex(8), without=tuple(without))
    started = ask_agent(api, asking, lambda client: client.start_guest(guest, request))
    print(msgspec.json.encode(started).decode() if json else f"{started.text}.")


def _lines(guest: str, found: ExportSecret) -> Iterator[str]:
    login = ""
    if found.file is None:
        yield f"# The export of guest {guest} lets everybody log in (export-open)."
    else:
        login = f",user={_option(found.user or '')},password-secret=holdover"
        yield f"# CHAP user: {found.user}"
        yield f"# CHAP secret: {found.secret}"
        yield f"# in the file: {found.file}"
        yield ""
        yield "# QEMU:"
        yield f"-object secret,id=holdover,file={_option(found.file)}"
    for lun, device in zip(found.numbers or range(len(found.luns)), found.luns, strict=True):
        yield (
            f"-blockdev driver=iscsi,transport=tcp,portal={found.portal},target={_option(found.target)}"
            f",lun={lun}{login},node-name={_option(device)}"
        )
    if found.file is not None:
        yield ""
        yield "# libvirt, on the host of the guest:"
        usage = f"holdover-{guest}"
        of = f"<usage type='iscsi'><target>{_xml(usage)}</target></usage>"
        yield f"#   a secret: <secret ephemeral='no' private='yes'>{of}</secret>"
        yield "#   virsh secret-define FILE; virsh secret-set-value --plain --file " + found.file + " UUID"
        yield (
            f"#   in <source>: <auth username='{_xml(found.user or '')}'>"
            f"<secret type='iscsi' usage='{_xml(usage)}'/></auth>"
        )


def _option(text: str) -> str:
    """A value in an option of QEMU, which takes a single comma for the end of the value."""
    return text.replace(",", ",,")


def _xml(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("'", "&apos;")
