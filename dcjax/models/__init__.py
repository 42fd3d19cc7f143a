"""The network: backbones, the embedding layer with its masks, and published weights.

Imports core, distributed, and the masks of division.
"""
