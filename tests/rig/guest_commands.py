"""Shell commands for a guest whose disk is /dev/sda: its reservation, and the workload that writes."""

from __future__ import annotations

_OUT = "sg_persist --no-inquiry --out"
_IN = "sg_persist --no-inquiry --in"

KEYS = f"{_IN} --read-keys /dev/sda"
RESERVATION = f"{_IN} --read-reservation /dev/sda"
FULL_STATUS = f"{_IN} --read-full-status /dev/sda"
CAPABILITIES = f"{_IN} --report-capabilities /dev/sda"
WRITE = "dd if=/dev/zero of=/dev/sda bs=4096 count=1 oflag=direct 2>&1"
WRITE_ON = "workload start /dev/sda"
"""Write and verify until "workload stop"."""


def register(key: int) -> str:
    """Register a key, through losses of power too."""
    return f"{_OUT} --register --param-sark={key:x} --param-aptpl /dev/sda"


def reserve(key: int, kind: int) -> str:
    """Reserve with a type."""
    return f"{_OUT} --reserve --param-rk={key:x} --prout-type={kind} /dev/sda"


def preempt(key: int, kind: int) -> str:
    """Remove all registrations with the guest's own key, and reserve."""
    return f"{_OUT} --preempt --param-rk={key:x} --param-sark={key:x} --prout-type={kind} /dev/sda"


def release(key: int, kind: int) -> str:
    """Give the reservation up."""
    return f"{_OUT} --release --param-rk={key:x} --prout-type={kind} /dev/sda"


def unregister(key: int) -> str:
    """Give the registration up, and a reservation that is there."""
    return f"{_OUT} --register --param-rk={key:x} --param-sark=0 /dev/sda"


def clear(key: int) -> str:
    """Remove all registrations and the reservation."""
    return f"{_OUT} --clear --param-rk={key:x} /dev/sda"


def counts_of(report: str) -> dict[str, str]:
    """What the workload has counted, from what "workload report" or "workload stop" says."""
    return dict(line.split("=", 1) for line in report.splitlines() if "=" in line)


def clean(counts: dict[str, str]) -> bool:
    """Whether no write, no read and no comparison of the workload has failed."""
    numbers = [counts[name] for name in ("write_errors", "read_errors", "mismatches")]
    return numbers == ["0", "0", "0"] and counts["last_error"] == ""


def wrote_without_error(counts: dict[str, str]) -> None:
    """The workload has written, and nothing has failed."""
    assert int(counts["writes"]) > 0, counts
    assert clean(counts), counts
