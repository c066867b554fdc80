"""A process that looks to a helper as QEMU does: by its command line, its descriptors, and what it sends.

Run with the socket, the number of disks, the disks, and then QEMU's options, as `python -m`. A disk is opened
for reading and writing; "read:/dev/sda" for reading alone, "path:/dev/sda" for nothing (O_PATH). It becomes
the user PRETEND_UID of its environment first, where that is given.

Opens the disks and connects, says "ready", and then for each line "DISK CDB DATA" (a number and hexadecimal,
"-" for no data) writes the status, the payload and the sense data. Ends with its standard input.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.helper.client import HelperClient

_ACCESS = {"read": os.O_RDONLY, "path": os.O_PATH}


def _open(disk: str) -> int:
    how, _, file = disk.rpartition(":")
    return os.open(file, _ACCESS.get(how, os.O_RDWR) | os.O_NONBLOCK)


def main() -> None:
    if "PRETEND_UID" in os.environ:
        user = int(os.environ["PRETEND_UID"])
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    disks = [_open(disk) for disk in sys.argv[3 : 3 + int(sys.argv[2])]]
    with HelperClient(Path(sys.argv[1]), timeout=600.0) as client:
        print("ready", flush=True)
        for line in sys.stdin:
            disk, cdb, data = line.split()
            reply = client.run(disks[int(disk)], bytes.fromhex(cdb), bytes.fromhex(data.strip("-")))
            print(reply.status, reply.payload.hex() or "-", reply.sense.hex(), flush=True)


if __name__ == "__main__":
    main()
