"""The daemon of one host: guests, their devices and exports, the steps of a handover, its API.

Puts the other packages together; used by cli alone.
"""
