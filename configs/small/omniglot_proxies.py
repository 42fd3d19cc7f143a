"""Omniglot (Lake et al. 2015) with a learned proxy for each of the 964 characters that train.

As configs/small/omniglot.py, but images are compared with proxies, masked like them, and not with
each other: batches need no two images of a class. No published experiment.
"""

from ml_collections import ConfigDict

from configs.small import omniglot


def get_config() -> ConfigDict:
    """Returns the settings of this experiment."""
    config = omniglot.get_config()
    config.loss.name = "normalized_softmax"
    config.sampling.sampler = "uniform"
    config.optimizer.loss_learning_rate = 1e-2
    return config
