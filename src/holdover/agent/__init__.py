"""The daemon of one host: guests, their devices and exports, the steps of a handover, the API.

It puts the other packages together. Only `cli` uses it.
"""
