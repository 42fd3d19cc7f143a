"""The folder of a run: checkpoints, locks, curves, notices to stop, and profiles.

Imports core, distributed, division, models and training. Orbax is imported here and in distributed.
"""
