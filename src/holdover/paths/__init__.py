"""Paths to a logical unit: through iSCSI, or by SG_IO on a device of this host.

A path carries the commands of one I_T nexus and decides nothing. `helper`, `agent` and `cli` use this
package.
"""
