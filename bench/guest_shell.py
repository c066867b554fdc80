"""What is typed into the shell of a guest that is measured, for all its disks at once."""

from __future__ import annotations

WRITE_ALL = (
    "for d in /sys/block/sd*; do "
    "dd if=/dev/zero of=/dev/${d##*/} bs=4096 count=1 oflag=direct status=none || exit 1; done"
)
"""Write a block to each disk."""


def wait_for_disks(number: int) -> str:
    """Wait until the guest has ``number`` disks; it fails after a minute."""
    return (
        f"for i in $(seq 600); do [ $(ls -d /sys/block/sd* | wc -l) -eq {number} ] && exit 0; "
        "sleep 0.1; done; exit 1"
    )


def reserve_all(key: int) -> str:
    """Register ``key`` at each disk, and reserve it with type 5.

    A unit attention may come first, as REPORTED LUNS DATA HAS CHANGED does while the target gets its LUNs.
    """
    return (
        'p() { for i in 1 2 3 4; do sg_persist -n -o "$@" && return; done; return 1; }; '
        "for d in /sys/block/sd*; do n=/dev/${d##*/}; "
        f"p -I -S {key:#x} $n && p -R -K {key:#x} -T 5 $n || exit 1; done"
    )
