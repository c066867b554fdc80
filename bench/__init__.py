"""Benchmarks: peers and ours alternately in one run, so that only ratios are quoted from a shared machine."""
