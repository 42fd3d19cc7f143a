"""One step of training: its state, the step itself, and the optimizer.

Imports core, distributed, division, losses and models.
"""
