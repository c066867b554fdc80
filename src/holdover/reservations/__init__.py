"""Questions to a logical unit about its reservations: what is there, which key is ours, and whose is it.

A guest's device, a handover, the agent, multipath, the command line and the demonstration all use this
package. It is pure: a question is a generator of commands (`steps`), and `driver` drives it. The package
imports `scsi` alone.
"""
