"""QEMU from outside: its monitor, a live migration, and QEMU processes for the demo and the tests.

This package knows nothing about SCSI or reservations: the caller that hands over a guest calls `Migration`
step by step, and does its own work between the steps. This package imports nothing else of the project;
agent, cli and tests may import its modules.
"""
