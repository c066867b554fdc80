"""Holdover keeps a virtual machine's SCSI persistent reservations with it when it live-migrates."""

__all__ = ["__version__"]

__version__ = "0.1.0"
