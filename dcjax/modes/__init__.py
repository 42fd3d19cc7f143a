"""The command line, and what it can do: train, evaluate, check data, embed, score, export, search.

Imports every other package; no package imports this one.
"""
