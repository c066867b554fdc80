"""Who may ask an agent what: by the name in the certificate, and the route.

==========================  =============  ==========  =====
who                         ``/peer/...``  GET guests  else
==========================  =============  ==========  =====
on this machine, plainly    yes            yes         yes
a name in ``[[peer]]``      yes            yes         no
a name in ``operators``     no             yes         yes
anybody else                no             no          no
==========================  =============  ==========  =====

A name may be both.
"""

from __future__ import annotations

from holdover.agent.config import AgentConfig

__all__ = ["refusal"]

_PEER_PREFIX = "/peer/"
_GUESTS = ("/guests", "/guests/{name}")


def refusal(config: AgentConfig, name: str | None, method: str, route: str) -> str | None:
    """Why ``name`` may not ask for ``route``, and what to add where; None if it may.

    Args:
        config: Of the agent that is asked.
        name: In the verified certificate; None for plain loopback or a Unix socket.
        method: Of HTTP.
        route: With its parameters as in ``/guests/{name}``, so that no spelling of a path gets past this.
    """
    if name is None:
        return None
    known = f"the certificate names {name!r}" if name else "the certificate names nobody"
    peer = name in {each.name for each in config.peer}
    if route.startswith(_PEER_PREFIX):
        if peer:
            return None
        return (
            f"{known}, which is no peer of {config.name}; to let that host hand over guests: "
            f'[[peer]] name = "{name}", api = "HOST:PORT" in the file of the agent on {config.name}, '
            "and start it anew"
        )
    if name in config.api.operators or (peer and method == "GET" and route in _GUESTS):
        return None
    return (
        f"{known}, which is no operator of {config.name}; to let it ask for this: "
        f'operators = ["{name}"] under [api] in the file of the agent on {config.name}, and start it anew'
    )
