"""Migrations of guests as jobs of the agents: each drives the QEMU of its own host.

This package imports `handover` and `attach` of the agent. `host` and `server` may import it.
"""
