"""Answers libvirt in place of virtlockd: the server, and what carries out what `holdover.libvirt` decides."""
