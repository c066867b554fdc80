"""The work of a handover on one LUN: each kind of work as steps, of both sides or of one side alone.

`handover` and `agent.handover` may import it. It imports `reservations`, `scsi`, and from `handover` only the
document of a LUN and what is known of its registrations.
"""
