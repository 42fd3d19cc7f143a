"""The command line, and what it can do, as `command_flags.MODE` lists it; sweeps, and their tables.

Imports every other package; no package imports this one.
"""
