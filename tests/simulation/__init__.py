"""Whole agents under virtual time: the production `Host`s of several machines, simulated from one seed."""
