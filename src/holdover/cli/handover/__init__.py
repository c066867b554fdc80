"""`holdover handover`."""
