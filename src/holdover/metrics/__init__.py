"""The metrics of an agent: their definitions, what measures durations, and the text that Prometheus reads.

It stands on nothing of the project.
"""
