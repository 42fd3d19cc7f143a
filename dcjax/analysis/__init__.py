"""What a trained embedding is like: neighbours, clusters, subspaces, maps.

Functions of arrays. Imports core, division, retrieval and what they import.
"""
