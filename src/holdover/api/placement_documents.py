"""The documents about the place of guests: where a guest is, and which hosts are declared dead.

``GET /hosts`` answers a `HostList`. ``POST /hosts/{name}/declaration`` takes a `HostDeclaration` and answers
a `HostList`.

Agents ask each other: ``POST /peer/place`` takes a `PlaceQuestion` and answers a `PlaceAnswer`,
``POST /peer/declaration`` takes a `Declaration` and answers it.
"""

from __future__ import annotations

import msgspec

from holdover.placement.claim import Word


class DeadHost(msgspec.Struct, frozen=True, kw_only=True):
    """The declaration that a host is dead.

    Attributes:
        host: The host.
        by: Who has declared it: the name in the certificate, or the user who asked at the Unix socket.
        at: When, in seconds since the epoch.
        why: What they said of the reason.
    """

    host: str
    by: str
    at: float
    why: str = ""


class HostDeclaration(msgspec.Struct, frozen=True, kw_only=True):
    """A request to declare a peer dead, or alive again.

    ``by`` is the user who asks; over TCP the name in the certificate counts instead.
    """

    dead: bool
    by: str = ""
    why: str = ""


class PeerHost(msgspec.Struct, frozen=True, kw_only=True):
    """A peer of a host.

    Attributes:
        name: The name of the peer.
        api: Where its agent is.
        answers: Whether its agent answers now.
        problem: Why it does not.
        dead: Its declaration, if it is declared dead.
        declares: What it has declared of this host, if it has declared this host dead.
    """

    name: str
    api: str
    answers: bool
    problem: str = ""
    dead: DeadHost | None = None
    declares: DeadHost | None = None


class HostList(msgspec.Struct, frozen=True, kw_only=True):
    """The peers of a host."""

    host: str
    hosts: tuple[PeerHost, ...]


class PlacementResult(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent did with a guest; ``text`` says what is true now."""

    guest: str
    host: str
    text: str


class AttachDisk(msgspec.Struct, frozen=True, kw_only=True):
    """A request to give the export of a guest one more disk.

    Attributes:
        device: The disk in QEMU's syntax, as in `devices` of a `[[guest]]`.
        lun: Its LUN number; None for the next one that is free.
    """

    device: str
    lun: int | None = None


class DetachDisk(msgspec.Struct, frozen=True, kw_only=True):
    """A request to take a disk away from the export of a guest.

    Attributes:
        lun: Its LUN number.
        release: Whether to unregister the guest from the disk; a reservation that it holds there ends.
    """

    lun: int
    release: bool = False


class Declaration(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent has declared of the host that it tells; None: nothing, or nothing any more."""

    dead: DeadHost | None


class PlaceQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """A question of one agent to another about a guest.

    ``claims``: the host that asks claims the guest, so the other host gives way as `holdover.placement.claim`
    says. Otherwise it only asks, and nothing follows from the answer.
    """

    guest: str
    claims: bool = False


class PlaceAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent says of a guest.

    Attributes:
        host: The name of the host.
        word: What it says.
        mark: Differs if the host has taken part in a handover of the guest in between.
        initiator: The initiator name of the host's agent.
        dead: What it has declared of the host that asks, if it has declared that host dead.
    """

    host: str
    word: Word
    mark: str = ""
    initiator: str = ""
    dead: DeadHost | None = None
