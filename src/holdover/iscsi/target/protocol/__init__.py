"""The target's side of a session without I/O: login, text, tasks, numbers and the transfer of data.

`iscsi.target` alone imports it. It imports `iscsi`, and from `iscsi.target` the budget and the events.
"""
