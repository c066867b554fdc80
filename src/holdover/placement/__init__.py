"""On which host a guest may start: what the hosts say of it, and claims to it. Pure."""
