"""What a trained embedding is like: neighbours, clusters, subspaces, maps; what a division does.

Functions of arrays. Imports core, division, losses, retrieval and what they import.
"""
