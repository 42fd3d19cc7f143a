"""Collects what the report of a run shows (`pages.content`) from its checkpoint, files and images.

`collect` begins; each other module collects one part.
"""
