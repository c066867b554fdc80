"""Holdover keeps a virtual machine's SCSI persistent reservations with it when it live-migrates."""

__version__ = "0.1.0"
