"""Signals that an operator may send to a daemon, and that would end a process without a handler.

A daemon blocks these signals from its first moment on, so that none ends it silently during its start. It
handles them as soon as it can.
"""

from __future__ import annotations

import signal

import structlog

log = structlog.get_logger()

IDLE_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)
"""The signals for which no daemon of Holdover has a use, but the agent for SIGUSR2: `agent.successor`."""

_HELD = {signal.SIGHUP, *IDLE_SIGNALS}


def hold_signals() -> None:
    """Block these signals until `release_signals`; threads made from now on block them too."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)


def release_signals() -> None:
    """Let the blocked signals come; their handlers are in place."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)


def tell_idle(number: int) -> None:
    """Log that a signal changes nothing."""
    log.warning(
        "A signal came that has no meaning here; SIGTERM ends this process.",
        signal=signal.Signals(number).name,
    )


def ends(number: int) -> bool:
    """Whether a signal ends a process that has no configuration to read again; log it if it is unusual.

    SIGHUP ends such a process, as it ends qemu-pr-helper: it comes from a terminal that is gone.
    """
    if number in IDLE_SIGNALS:
        tell_idle(number)
        return False
    if number == signal.SIGHUP:
        log.error("SIGHUP ends this process, because it has no configuration to read again.")
    return True
