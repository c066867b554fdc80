"""The SCSI standards as data: operation codes, status, sense, CDBs and parameter data, encoded and decoded.

The interface of a path, by which a command is sent, stands here too.

This package is pure and the lowest one: it imports nothing else of the project, and every other package may
import it. The numbers of the standards stand here, as enums, and nowhere else. Decoding raises only
DecodeError.
"""
