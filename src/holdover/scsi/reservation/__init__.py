"""Persistent reservations as data: keys, transport ids, and the parameters of PERSISTENT RESERVE IN and OUT.

Every package may import it; it imports `scsi` alone.
"""
