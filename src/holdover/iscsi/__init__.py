"""iSCSI (RFC 7143) at error recovery level 0: PDUs, session state, an asyncio target and initiator.

Everything but `target`, `target_connection`, `initiator` and `receive_buffer` is pure: bytes in, events and
bytes out.
Stands on `scsi` alone; `paths`, `agent` and `cli` may import it.
"""
