"""`holdover migrate` and `holdover migrations`."""
