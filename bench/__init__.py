"""Benchmarks: each alternates between our program and its peers in one run, to compare them by ratios.

Only ratios are quoted, because other work shares the machine.
"""
