"""The commands that show all hosts of a site at a glance: `holdover top` and `holdover dashboard`."""
