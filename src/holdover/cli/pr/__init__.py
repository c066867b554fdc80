"""`holdover pr`."""
