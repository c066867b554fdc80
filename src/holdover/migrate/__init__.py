"""The live migration of a guest together with its reservations, and what its result means to people.

This package imports `api`, `handover` and `qemu`. `demo` and `cli` may import it.
"""
