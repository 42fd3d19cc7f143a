"""Experiments on small images, for a CPU."""
