"""TLS between agents and operators: certificates, credentials, and a small certificate authority.

This package imports `config`. `api`, `agent`, `demo` and `cli` may import it.
"""
