"""Devices and processes: the mesh, arrays sharded by rows, what all processes must agree on.

Imports core.
"""
