"""libvirt's lock protocol, and what Holdover answers when libvirt asks whether a guest may run.

Everything here is pure. The server is `holdover.agent.libvirt`.
"""
