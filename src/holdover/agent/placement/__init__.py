"""Where a guest is, and where it may start: claims, cold starts, hosts that are declared dead."""
