"""Which guest a QEMU process is, and which of its disks a descriptor is: the helper front end of an agent.

It uses `agent.guests` and `helper`. `agent.handover` and `agent` may import it.
"""
