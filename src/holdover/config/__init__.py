"""The agent's configuration file: its structures and its rules, and the checks of what it says. Pure.

This package imports `guest`, `iscsi` and `paths`. `pki`, `api`, `migrate`, `agent` and `cli` may import it.
"""
