"""Ways to reach a logical unit: in this process, behind iSCSI, by SG_IO on a device of this host.

A path carries commands of one I_T nexus and decides nothing. Used by helper, agent and cli.
"""
