"""Drawn characters from random weights: Omniglot (configs/small/omniglot.py) at 16 x 16 pixels.

    python launch.py --config=configs/study/characters.py --config.dataset.root=/path/to/omniglot

Of the 964 characters of its background alphabets a fifth is for validation; with a larger share
fewer are left to train on, while the 659 characters of the test stay the same.
"""

from ml_collections import ConfigDict

from configs.small import omniglot


def get_config() -> ConfigDict:
    """Returns the settings of this experiment."""
    config = omniglot.get_config()
    config.dataset.validation_classes = 0.2
    config.dataset.resize = 16
    config.dataset.crop = 16
    config.dataset.cache = "memory"
    config.augment.crop = "resize_then_random_resized"
    config.model.width = 16
    config.division.every_epochs = 2
    config.sampling.epoch_steps = 60
    config.train.num_epochs = 24
    config.train.report = False
    config.eval.every_epochs = 2
    config.eval.at_start = False
    config.checkpoint.every_epochs = 24
    return config
