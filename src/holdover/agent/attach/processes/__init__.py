"""What the agent reads of a QEMU process: its identity, and the name that libvirt has for it.

`agent.attach` and what asks a guest's QEMU import it. It imports `agent.guests`, `guest` and `helper`.
"""
