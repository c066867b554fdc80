"""The target's side of iSCSI: sessions without I/O, and the target on asyncio."""
