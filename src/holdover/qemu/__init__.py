"""QEMU from outside: its monitor, a live migration, and the processes of the demo and the tests.

Knows nothing of SCSI or of reservations: whoever hands over calls `Migration` step by step and does
its own work in between. Imports nothing of the project outside this folder; agent, cli and tests may
import from its modules.
"""
