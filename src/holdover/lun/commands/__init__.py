"""The commands of a logical unit, without reservations: checks, answers, and the work on the medium."""
