"""The initiator's side of iSCSI: a session without I/O, and the initiator on asyncio."""
