"""Everything that reads the config: the parts of an experiment, their checks, and reports.

Imports every package but modes.
"""
