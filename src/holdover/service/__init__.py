"""How a program speaks with the service manager and the log of its host; stands on nothing of the project."""
