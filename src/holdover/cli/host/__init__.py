"""``holdover host``: the other hosts, and which of them are dead."""
