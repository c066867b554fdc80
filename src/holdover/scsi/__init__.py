"""The SCSI standards as data: operation codes, status, sense, CDBs, parameter data, both ways.

Pure, and the floor of the house: imports nothing of the project, and every other package may import
it. Numbers of the standards live here, as enums, and nowhere else. Decoding raises DecodeError alone.
"""
