"""How many connections each client may have at each front end of a process. Pure; imports nothing of the
project.
"""
