"""iSCSI (RFC 7143) at error recovery level 0: PDUs, session state, an asyncio target and initiator.

All modules except `target`, `target_connection`, `initiator` and `receive_buffer` are pure: they take bytes,
and return events and bytes.
This package imports only `scsi`; `paths`, `agent` and `cli` may import this package.
"""
