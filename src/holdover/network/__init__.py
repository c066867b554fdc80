"""TCP connections that come in: their rate, their party, their TLS. Time is left for all other work."""
