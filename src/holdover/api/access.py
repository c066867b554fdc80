"""Who may use which route of an agent, by the socket, the name in the certificate, and the route.

==========================  =============  ==========  =======  =====
who                         ``/peer/...``  GET guests  reading  else
==========================  =============  ==========  =======  =====
at the Unix socket          no             yes         yes      yes
a name in ``[[peer]]``      yes            yes         no       no
a name in ``readers``       no             yes         yes      no
a name in ``operators``     no             yes         yes      yes
anybody else                no             no          no       no
==========================  =============  ==========  =======  =====

*Reading* are the routes of `_READING`: metrics, health, the states of handovers and migrations. They tell no
secret and change nothing.

A name may be both a peer and an operator. The peers' routes need a peer's certificate on every socket,
because a client of these routes says that a guest leaves its host.
"""

from __future__ import annotations

from holdover.config.agent_file import AgentConfig

_PEER_PREFIX = "/peer/"
_GUESTS = ("/guests", "/guests/{name}")
_READING = (
    *_GUESTS,
    "/guests/{name}/handover",
    "/guests/{name}/migration",
    "/migrations",
    "/openapi.json",
    "/history",
    "/metrics",
    "/livez",
    "/readyz",
)


def refusal(config: AgentConfig, name: str | None, method: str, route: str) -> str | None:
    """Why ``name`` may not use ``route``, and what to add to which file; None if it may use it.

    Args:
        config: The configuration of the agent that is asked.
        name: The name in the verified certificate; None for a Unix socket. Whoever can open the Unix socket
            is an operator.
        method: The HTTP method.
        route: The route with its parameters, as in ``/guests/{name}``. So no spelling of a path gets around
            this check.
    """
    if name is None:
        if not route.startswith(_PEER_PREFIX):
            return None
        return (
            f"only a peer host of {config.name} may send this, with its certificate over TCP; the Unix "
            "socket is for operators"
        )
    known = f"the certificate names {name!r}" if name else "the certificate names nobody"
    peer = name in {each.name for each in config.peer}
    if route.startswith(_PEER_PREFIX):
        if peer:
            return None
        return (
            f"{known}, which is no peer of {config.name}; to let that host hand over guests: "
            f'[[peer]] name = "{name}", api = "HOST:PORT" in the file of the agent on {config.name}, '
            "and send it SIGHUP (systemctl reload)"
        )
    if name in config.api.operators:
        return None
    reader = name in config.api.readers
    if method == "GET" and ((reader and route in _READING) or (peer and route in _GUESTS)):
        return None
    return (
        f"{known}, which is no operator of {config.name}; to let it ask for this: "
        f'operators = ["{name}"] under [api] in the file of the agent on {config.name}, and send it SIGHUP '
        "(systemctl reload)"
    )


def is_known(config: AgentConfig, name: str | None) -> bool:
    """Whether ``name`` may use any route at all; the arguments are those of `refusal`."""
    names = (*config.api.operators, *config.api.readers, *(each.name for each in config.peer))
    return name is None or name in names
