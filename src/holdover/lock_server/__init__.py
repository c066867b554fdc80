"""The lock server, at whose socket libvirt asks whether a guest may run: a small process beside the agent.

It answers by itself for guests that have no reservation, and asks the agent about the others.
"""
