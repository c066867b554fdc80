"""The commands that run until a signal ends them, and `holdover target-ctl`."""
