"""`holdover journal`."""
