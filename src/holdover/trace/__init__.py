"""Where the time of a handover went: spans of several hosts on one axis, and how they are shown. Pure.

Stands on nothing of the project; `cli` fills it with what agents and QEMUs have told.
"""
