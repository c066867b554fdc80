"""The XML of a domain, changed so that the reservations of its disks of the host go to the agent's helper."""

from __future__ import annotations

from xml.etree import ElementTree

_NAMESPACES = {"qemu": "http://libvirt.org/schemas/domain/qemu/1.0"}


class DomainXmlError(Exception):
    """The XML cannot be changed in that way; the message says why."""


def with_helper(xml: str, socket: str) -> str:
    """The XML of a domain whose disks with ``device='lun'`` use the helper at a socket.

    Disks by iSCSI stay as they are, because QEMU has no helper for these.

    Raises:
        DomainXmlError: It is no XML, or there is no such disk.
    """
    try:
        root = ElementTree.fromstring(xml)  # noqa: S314 - libvirt wrote it
    except ElementTree.ParseError as error:
        raise DomainXmlError(f"the domain's XML cannot be read: {error}") from error
    sources = [source for disk in root.iter("disk") if (source := _source_of(disk)) is not None]
    if not sources:
        name = root.findtext("name") or "the domain"
        raise DomainXmlError(f"{name} has no disk of the host with device='lun'")
    for source in sources:
        _use(source, socket)
    for prefix, uri in _NAMESPACES.items():
        ElementTree.register_namespace(prefix, uri)
    ElementTree.indent(root)
    return f"{ElementTree.tostring(root, encoding='unicode')}\n"


def _source_of(disk: ElementTree.Element) -> ElementTree.Element | None:
    """The source of a disk of the host that passes reservations; None for other disks."""
    if disk.get("device") != "lun" or disk.get("type") == "network":
        return None
    return disk.find("source")


def _use(source: ElementTree.Element, socket: str) -> None:
    for before in source.findall("reservations"):
        source.remove(before)
    reservations = ElementTree.SubElement(source, "reservations", {"managed": "no"})
    ElementTree.SubElement(reservations, "source", {"type": "unix", "path": socket, "mode": "client"})
