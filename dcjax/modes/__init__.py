"""What `launch.py` can do: train, evaluate, check data, sweep.

Imports every other package; no package imports this one.
"""
