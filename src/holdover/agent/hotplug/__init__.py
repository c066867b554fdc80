"""Disks that an export gets or loses while the agent runs."""
