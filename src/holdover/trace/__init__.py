"""The trace of a handover: what took how long on several hosts, on one time axis, and how to show it. Pure.

This package imports nothing else of the project. `cli` fills a trace with what agents and QEMUs report.
"""
