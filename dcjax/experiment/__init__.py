"""All that reads the config: the parts of an experiment, their checks, and what a run reports.

Imports every package but modes.
"""
