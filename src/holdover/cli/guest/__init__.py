"""`holdover guest`."""
