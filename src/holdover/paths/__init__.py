"""Ways to reach a logical unit: a LUN in this process, a LUN behind iSCSI.

A path carries commands of one I_T nexus and decides nothing. Used by agent and cli.
"""
