r"""A small network from random weights: Omniglot at 28 x 28 pixels, trained past its best.

    python launch.py --config=configs/study/characters.py --config.dataset.root=/path/to/omniglot

60 classes train, so that K = 1 is best after 3,000 to 5,000 of the 6,000 steps. A division every
twelfth of the run, as for CUB in the paper (T = 10 of 120 epochs).
"""

from ml_collections import ConfigDict

from configs.small import omniglot


def get_config() -> ConfigDict:
    """Returns the settings of this experiment."""
    config = omniglot.get_config()
    config.dataset.validation_classes = 904 / 964
    config.model.width = 16
    config.sampling.batch_size = 32
    config.sampling.epoch_steps = 100
    config.optimizer.masks_multiplier = 1.0  # so masks learn at the paper's 1e-3
    config.train.num_epochs = 60
    config.train.report = False
    config.eval.every_epochs = 10
    config.eval.at_start = False
    config.checkpoint.every_epochs = 60
    return config
