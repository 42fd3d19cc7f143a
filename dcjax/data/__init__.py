"""Images: data sets and their protocols, decoding, augmentation, pipelines and caches.

Imports core, distributed and division. TensorFlow is imported in this package only.
"""
